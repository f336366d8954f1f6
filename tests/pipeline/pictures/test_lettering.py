"""Names in pictures: the right letters in the right order, or an escape that says which were meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, features

from maskmill.pipeline.pictures.lettering import Lettering, installed_fonts

DEJAVU = next(installed_fonts())
CAT = "猫"


@pytest.fixture
def cat_font(tmp_path: Path) -> Path:
    """A font of one character, a black square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord(CAT): "cat"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "cat": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Cat", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=1000)
    builder.setupPost()
    builder.save(tmp_path / "cat.ttf")
    return tmp_path / "cat.ttf"


def ink(letters: Lettering, text: str, most_px: float | None = None) -> np.ndarray:
    """(40, 400) bool, the dark pixels of the text drawn at the left edge."""
    picture = Image.new("RGB", (400, 40), "white")
    letters.draw(picture, (0, 4), text, most_px)
    return np.asarray(picture).min(axis=2) < 128


@pytest.mark.parametrize(
    "text, shown",
    [
        ("grass  and\nsand", "grass and sand"),
        (CAT, "\\u732b"),
        ("🚀 rocket", "\\U0001f680 rocket"),
        ("Größe, été, Ελλάδα, Кот", "Größe, été, Ελλάδα, Кот"),
        ("\x00\x1b[31m", "\\x00\\x1b[31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("<script> & \"'", "<script> & \"'"),
    ],
)
def test_what_no_font_has_is_escaped(text: str, shown: str) -> None:
    letters = Lettering(15, [DEJAVU])
    assert letters.drawable(text) == shown
    assert np.array_equal(ink(letters, text), ink(letters, shown))


def test_other_fonts_help_out(cat_font: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.ttf").write_bytes(b"no font at all")
    letters = Lettering(20, [tmp_path / "damaged.ttf", DEJAVU, cat_font])
    assert letters.drawable(f"a {CAT}") == f"a {CAT}"
    drawn = ink(letters, f"a {CAT}")
    start = round(letters.length("a x") - letters.length("x"))
    assert drawn[:, start : start + 20].sum() == 400, "the square of the second font stands behind the letter"
    assert np.array_equal(drawn[:, : start - 1], ink(letters, "a")[:, : start - 1])


@pytest.mark.skipif(not features.check("raqm"), reason="no fribidi on this machine")
def test_hebrew_runs_from_right_to_left(cat_font: Path) -> None:
    letters = Lettering(30, [DEJAVU, cat_font])
    both = ink(letters, "שי")
    width = round(letters.length("ש"))
    alone = ink(letters, "ש")[:, :width]
    end = round(letters.length("שי"))
    assert np.array_equal(both[:, end - width : end], alone), "the first letter stands at the right"
    mixed = ink(letters, f"שי{CAT}")
    assert mixed[:, :30].sum() == 900, "what comes after Hebrew stands left of it"


def test_without_fribidi_right_to_left_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    letters = Lettering(15, [DEJAVU])
    assert letters.drawable("ש a") == "\\u05e9 a"
    assert ink(letters, "ש a").any()


@pytest.mark.parametrize("text", ["x" * 300, "שלום " * 60, "a" + "\u0301" * 299])
def test_long_names_are_cut(text: str) -> None:
    drawn = ink(Lettering(15, [DEJAVU]), text, most_px=200)
    assert drawn.any()
    assert not drawn[:, 203:].any()


def test_emoji_are_drawn_in_their_colours() -> None:
    font = next((file for file in installed_fonts() if "coloremoji" in Path(file).stem.lower()), None)
    if font is None:
        pytest.skip("no font of coloured emoji on this machine")
    picture = Image.new("RGB", (60, 40), "white")
    letters = Lettering(20, [DEJAVU, font])
    letters.draw(picture, (0, 4), "🍓")
    red, green, _ = np.asarray(picture).astype(int).transpose(2, 0, 1)
    assert (red - green > 80).sum() > 50
    assert 15 < letters.length("🍓") < 35
