"""Writes names in any script into pictures; characters that no font of the machine has are shown as escapes.

Every stretch of a text is drawn with the first font that has its characters: DejaVu, which comes with matplotlib
(Latin, Greek, Cyrillic, Hebrew, Arabic and more), then the fonts that are installed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, features

BITMAP_SIZES_PX = (109, 136, 128, 160)
"""Sizes of bitmap fonts, as those of emoji are; a bitmap font cannot be loaded at any other size."""
_STYLES = ("bold", "italic", "oblique", "black", "light", "thin", "medium", "mono", "condensed", "serif")
_RIGHT_TO_LEFT = ("R", "AL")
_TURNING = ("LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
_JOINER = "\u200d"


@dataclass(frozen=True, slots=True)
class _Face:
    """A font at one size. scale: the size wanted, divided by the size that the font could be loaded at."""

    font: ImageFont.FreeTypeFont
    characters: frozenset[int]
    scale: float

    @property
    def ascent(self) -> int:
        """Pixels above the baseline of the letters."""
        return round(self.font.getmetrics()[0] * self.scale)

    def length(self, text: str, direction: str | None) -> float:
        """Width of a text in pixels."""
        return float(self.font.getlength(text, direction=direction) * self.scale)


class Lettering:
    """Letters of one size.

    font_files: in order of preference; by default DejaVu, then the installed fonts, which are looked for only when a
    character needs them.
    """

    def __init__(self, size_px: int, font_files: Sequence[str | Path] | None = None) -> None:
        self._size_px = size_px
        self._files = installed_fonts() if font_files is None else (str(file) for file in font_files)
        self._faces: list[_Face] = []
        self._can_turn = features.check("raqm")

    def draw(self, picture: Image.Image, at: tuple[int, int], text: str, most_px: float | None = None) -> None:
        """Write a line in black, its upper left corner at ``at``, cut with an ellipsis to at most ``most_px`` pixels.

        Line breaks and other white space become single spaces.
        """
        text = self.drawable(text)
        if most_px is not None:
            text = self._cut(text, most_px)
        runs = self._runs(text)
        x, baseline = at[0], at[1] + (self._faces[0].ascent if self._faces else self._size_px)
        for face, part, direction in runs:
            x += _draw_run(picture, (x, baseline), face, part, direction)

    def length(self, text: str) -> float:
        """Width of a line in pixels."""
        runs = self._runs(self.drawable(text))
        return sum(face.length(part, direction) for face, part, direction in runs)

    def drawable(self, text: str) -> str:
        """``text`` with escapes, such as ``\\u732b``, for characters that no font has and for control characters."""
        return "".join(
            character if self._face_of(character) is not None else character.encode("unicode_escape").decode()
            for character in " ".join(text.split())
        )

    def _cut(self, text: str, most_px: float) -> str:
        if self.length(text) <= most_px:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.length(text[:middle] + "…") <= most_px else (low, middle - 1)
        return text[:low] + "…"

    def _runs(self, text: str) -> list[tuple[_Face, str, str | None]]:
        """The stretches of a text that have one font each, with their direction, from left to right on the picture."""
        runs: list[tuple[_Face, str]] = []
        for character in text:
            face = runs[-1][0] if runs and _joins(character, *runs[-1]) else self._face_of(character)
            if face is None:
                raise ValueError(f"no font has {character!r}")
            if runs and runs[-1][0] is face:
                runs[-1] = (face, runs[-1][1] + character)
            else:
                runs.append((face, character))
        first = next((kind for kind in map(unicodedata.bidirectional, text) if kind in (*_RIGHT_TO_LEFT, "L")), "L")
        turned = first in _RIGHT_TO_LEFT
        direction = ("rtl" if turned else "ltr") if self._can_turn else None
        return [(face, part, direction) for face, part in (reversed(runs) if turned else runs)]

    def _face_of(self, character: str) -> _Face | None:
        kind = unicodedata.bidirectional(character)
        # These are shown as escapes: characters that change the direction, and, where Pillow cannot lay out text from
        # right to left, the letters of such scripts. Drawn as they are, both would show another name.
        if (
            unicodedata.category(character) == "Cc"
            or kind in _TURNING
            or (kind in _RIGHT_TO_LEFT and not self._can_turn)
        ):
            return None
        number = ord(character)
        found = next((face for face in self._faces if number in face.characters), None)
        while found is None and (file := next(self._files, None)) is not None:
            if (face := _face(file, self._size_px)) is not None:
                self._faces.append(face)
                found = face if number in face.characters else None
        return found


def _draw_run(picture: Image.Image, at: tuple[int, int], face: _Face, part: str, direction: str | None) -> int:
    """Draw a stretch with its baseline through ``at``, and return its width in pixels."""
    how: dict[str, Any] = {"font": face.font, "direction": direction, "anchor": "ls"}
    if face.scale == 1:
        ImageDraw.Draw(picture).text(at, part, fill="black", **how)
    else:
        left, top, right, bottom = ImageDraw.Draw(picture).textbbox((0, 0), part, **how)
        letters = Image.new("RGBA", (max(1, round(right - left)), max(1, round(bottom - top))))
        ImageDraw.Draw(letters).text((-left, -top), part, fill="black", embedded_color=True, **how)
        small = letters.resize([max(1, round(side * face.scale)) for side in letters.size], Image.Resampling.BOX)
        picture.paste(small, (round(at[0] + left * face.scale), round(at[1] + top * face.scale)), small)
    return round(face.length(part, direction))


def _joins(character: str, face: _Face, before: str) -> bool:
    """Whether a character (accent, joiner, space) is drawn in the font of the stretch before it."""
    if character == " ":
        return face.scale == 1 and ord(character) in face.characters
    return before.endswith(_JOINER) or unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf", "Sk")


def installed_fonts() -> Iterator[str]:
    """Yield font files: DejaVu, then those of the machine, plain styles first; the machine is searched only then."""
    yield str(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    yield from _system_fonts()


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    # Imported late: the import reads every font of the machine once, for a list that matplotlib keeps.
    from matplotlib.font_manager import findSystemFonts

    return tuple(sorted(findSystemFonts(), key=_plainness))


def _plainness(file: str) -> tuple[int, str]:
    name = Path(file).stem.lower()
    return sum(style in name for style in _STYLES) + ("sans" not in name), file


def _face(file: str, size_px: int) -> _Face | None:
    """A font at ``size_px``, or a bitmap font at the size it has; None for a file that cannot be used."""
    try:
        characters = frozenset(FT2Font(file).get_charmap())
    except RuntimeError:  # FreeType raises it for a damaged file
        return None
    for size in (size_px, *BITMAP_SIZES_PX):
        try:
            return _Face(ImageFont.truetype(file, size), characters, size_px / size)
        except OSError:
            continue
    return None
