"""Naming settings are defined once: whatever has a list of their names or values has it from ``NamingSettings``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

import pytest

from maskmill.model import ModelSpec, Segmenter, Vocabulary
from maskmill.model.choices import Dtype
from maskmill.model.clip.prompts import IMAGE_PROMPT_SETS, PROMPT_SETS
from maskmill.model.naming.scoring import FUSIONS
from maskmill.model.naming.settings import (
    Fusion,
    ImagePrompts,
    NamingSettings,
    Prompts,
    Region,
    setting_help,
    setting_types,
)
from maskmill.model.presets import BUNDLED
from maskmill.model.spec import DTYPES, spec_fingerprint

OTHER: dict[str, Any] = {
    "region": "attend",
    "attend_side": 48,
    "attend_layer": 0,
    "fusion": "ensembling-all",
    "prompts": "vild-14",
    "image_prompts": "vild-14",
    "synonyms": "max",
    "pool_mask": "binary",
    "calibration": 0.3,
    "resize_masks_first": True,
    "query_segments": True,
    "min_objectness": 0.2,
    "min_area": 3,
    "min_visible": 2,
}
"""For every setting another value than the bundled preset's."""


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(["circle", "square"])


def test_there_is_another_value_for_every_setting() -> None:
    assert OTHER.keys() == setting_types().keys()
    usual = asdict(ModelSpec().naming)
    assert not [name for name, value in OTHER.items() if value == usual[name]]
    assert all(text.endswith(".") for text in setting_help().values())


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_reaches_the_spec_and_its_fingerprint(name: str, vocabulary: Vocabulary) -> None:
    spec, other = ModelSpec(), ModelSpec(**{name: OTHER[name]})
    assert asdict(other.naming) == asdict(spec.naming) | {name: OTHER[name]}
    before, after = spec_fingerprint(spec, vocabulary), spec_fingerprint(other, vocabulary)
    assert {part for part in after if after[part] != before[part]} == {name}


def test_every_setting_reaches_the_segmenter(vocabulary: Vocabulary) -> None:
    preset = Segmenter.from_preset("bundled", vocabulary=vocabulary, device="cpu", **OTHER)
    assert preset.classifier.settings == NamingSettings(**OTHER)
    sides = {"short_side": 128, "max_long_side": 512}
    by_name = Segmenter.from_checkpoint(BUNDLED, clip=BUNDLED, vocabulary=vocabulary, **sides, **OTHER)
    whole = NamingSettings(**{**OTHER, "calibration": 0.5})
    as_one = Segmenter.from_checkpoint(
        BUNDLED, clip=BUNDLED, vocabulary=vocabulary, naming=whole, **sides, calibration=0.3
    )
    assert by_name.classifier.settings == as_one.classifier.settings == NamingSettings(**OTHER)


def test_an_unknown_setting_is_refused_with_the_names_there_are(vocabulary: Vocabulary) -> None:
    with pytest.raises(
        ValueError, match=r"Unknown settings sharpness. Choose from: preset, .*, short_side, .*, region, "
    ):
        Segmenter.from_preset("bundled", vocabulary=vocabulary, sharpness=3)
    with pytest.raises(ValueError, match=r"Unknown settings sharpness. Choose from: region, attend_side"):
        Segmenter.from_checkpoint("w.pth", clip="c.pt", vocabulary=vocabulary, sharpness=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"region": "box"}, "Unknown region 'box'. Choose from: crop, mask, cropmask, attend, pool"),
        ({"image_prompts": "none"}, "Unknown image_prompts 'none'. Choose from: release, single"),
        ({"min_objectness": 1.1}, r"min_objectness must be in 0\.\.1, got 1.1"),
        ({"min_objectness": float("nan")}, "min_objectness must be a finite number"),
        ({"calibration": float("inf")}, "calibration must be a finite number, got inf"),
        ({"attend_side": 0}, "attend_side must be at least 1, got 0"),
        ({"min_visible": -1}, "min_visible must be at least 0, got -1"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NamingSettings(**values)


def test_the_values_of_a_setting_are_those_that_are_known_where_it_is_used() -> None:
    assert tuple(PROMPT_SETS) == get_args(Prompts)
    assert tuple(IMAGE_PROMPT_SETS) == get_args(ImagePrompts)
    assert get_args(Fusion) == FUSIONS
    assert get_args(Region) == ("crop", "mask", "cropmask", "attend", "pool")
    assert set(get_args(Dtype)) == {*DTYPES, "auto"}
