from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskmill.model.clip.loading import load_clip, save_clip
from maskmill.model.errors import CheckpointError
from maskmill.model.naming.settings import setting_types
from maskmill.model.presets import PRESETS
from maskmill.model.segmenter import load_segmenter
from maskmill.model.spec import (
    ModelSpec,
    default_parts,
    load_classifier,
    load_proposer,
    resolve_device,
    spec_fingerprint,
    training_classes,
)
from maskmill.model.vocabulary import ClassEntry, Vocabulary
from maskmill.model.zegformer.checkpoint import load_zegformer, save_zegformer


@pytest.fixture
def spec(golden_path: Path) -> ModelSpec:
    return ModelSpec(
        preset="zegformer-r50-coco",
        weights=str(golden_path / "zegformer_tiny.pth"),
        clip=str(golden_path / "clip_tiny_openai.pt"),
        short_side=64,
        device="cpu",
    )


def test_released_presets_say_licence_config_and_source() -> None:
    released = [preset for preset in PRESETS.values() if preset.name.startswith("zegformer")]
    assert len(released) >= 3
    for preset in released:
        assert "CC-BY-NC 4.0" in preset.licence
        assert preset.config is not None
        assert preset.config.startswith("zegformer_R")
        assert preset.weights is None
        assert "README" in preset.weights_from
        assert preset.clip == "ViT-B-16-quickgelu:openai"


def test_unset_fields_take_the_presets_values(golden_path: Path) -> None:
    weights = str(golden_path / "zegformer_tiny.pth")
    spec = ModelSpec(preset="zegformer-r101-voc", weights=weights, fusion="clip", calibration=0.0)
    assert (spec.short_side, spec.max_long_side, spec.naming.prompts, spec.naming.region) == (
        512,
        2048,
        "single",
        "cropmask",
    )
    assert (spec.naming.fusion, spec.naming.calibration) == ("clip", 0.0)
    assert ModelSpec(preset="zegformer-r50-ade", weights=weights).naming.calibration == 0.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "best"}, "Unknown preset 'best'. Choose from: bundled, photo, photo-small"),
        ({"proposer": "sum:x"}, "Unknown proposer 'sum:x'. Choose from: zegformer, hf:FOLDER_OR_REPOSITORY"),
        ({"proposer": "hf:"}, "Unknown proposer 'hf:'"),
        ({"proposer": "sam:x", "fusion": "query"}, "needs query embeddings.*'sam:x'.*Choose from: clip, vocabulary"),
        ({"dtype": "int8"}, "Choose from: float32, bfloat16, float16, auto"),
        ({"device": "tpu"}, "Choose from: auto, cpu, cuda"),
        ({"region": "box"}, "Choose from: crop, mask, cropmask"),
        ({"preset": "zegformer-r101-coco"}, r"needs weights.*Config: zegformer_R101_bs32_60k_vit16_coco-stuff"),
    ],
)
def test_wrong_values_are_refused_with_the_right_ones(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSpec(**values)


def test_spec_travels_as_plain_values(spec: ModelSpec) -> None:
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_the_two_halves_and_the_whole_give_the_same(spec: ModelSpec) -> None:
    vocabulary = Vocabulary(["person", "grass", "unicorn"])
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    (whole,) = load_segmenter(spec, vocabulary)([image])
    proposer, classifier = load_proposer(spec), load_classifier(spec, vocabulary)
    resized = proposer.input_size.resize(image)
    assert resized.shape == (64, 80, 3)
    (halves,) = classifier([resized], proposer([resized]), [(80, 100)])
    np.testing.assert_array_equal(halves.label_map, whole.label_map)
    assert halves.label_map.shape == (80, 100)


def test_classes_of_the_training_set_are_seen(spec: ModelSpec) -> None:
    classifier = load_classifier(spec, Vocabulary(["person", "grass", "unicorn", ClassEntry(name="dog", seen=False)]))
    # Grass is one of COCO-Stuff's unseen classes.
    assert classifier.vocabulary.seen_flags == (True, False, False, False)
    assert len(training_classes(spec)) == 156


def test_classes_recorded_in_the_weights_come_first(spec: ModelSpec, golden_path: Path, tmp_path: Path) -> None:
    save_zegformer(load_zegformer(golden_path / "zegformer_tiny.pth"), tmp_path)
    description = tmp_path / "zegformer.json"
    description.write_text(description.read_text().replace("{", '{"seen_classes": ["grass"],', 1))
    own = ModelSpec(preset="zegformer-r50-coco", weights=str(tmp_path), clip=spec.clip)
    assert training_classes(own) == ("grass",)
    description.write_text(description.read_text().replace('["grass"]', '"grass"', 1))
    with pytest.raises(CheckpointError, match="must be a list of names"):
        training_classes(own)


def test_settings_recorded_with_the_weights_come_before_the_presets(
    spec: ModelSpec, golden_path: Path, tmp_path: Path
) -> None:
    save_zegformer(load_zegformer(golden_path / "zegformer_tiny.pth"), tmp_path)
    description = tmp_path / "zegformer.json"
    plain = description.read_text()
    description.write_text(plain.replace("{", '{"defaults": {"fusion": "clip", "short_side": 99},', 1))
    own = ModelSpec(preset="zegformer-r50-coco", weights=str(tmp_path), clip=spec.clip)
    assert (own.naming.fusion, own.short_side, own.naming.prompts) == ("clip", 99, "imagenet_select")
    assert ModelSpec(preset="zegformer-r50-coco", weights=str(tmp_path), fusion="query").naming.fusion == "query"
    description.write_text(plain.replace("{", '{"defaults": {"fuse": "clip"},', 1))
    with pytest.raises(CheckpointError, match=r"unknown defaults \['fuse'\]; valid: region, attend_side"):
        ModelSpec(preset="zegformer-r50-coco", weights=str(tmp_path))


def test_fingerprint_changes_with_what_labels_depend_on(spec: ModelSpec, golden_path: Path, tmp_path: Path) -> None:
    vocabulary = Vocabulary(["person", "grass"])
    base = spec_fingerprint(spec, vocabulary)
    assert spec_fingerprint(spec, Vocabulary([ClassEntry(name="person", colour=(1, 2, 3)), "grass"])) == base

    def changed(own: ModelSpec, classes: Vocabulary = vocabulary) -> set[str]:
        fingerprint = spec_fingerprint(own, classes)
        assert fingerprint.keys() == base.keys()
        return {key for key in base if fingerprint[key] != base[key]}

    values = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    assert changed(ModelSpec(**{**values, "fusion": "query"})) == {"fusion"}
    assert changed(ModelSpec(**{**values, "dtype": "bfloat16"})) == {"dtype"}
    assert changed(ModelSpec(**{**values, "device": "auto"})) == set()
    assert changed(spec, Vocabulary(["person", "grass"], seen=["grass"])) == {"vocabulary"}

    save_zegformer(load_zegformer(golden_path / "zegformer_tiny.pth"), tmp_path)
    save_clip(load_clip(golden_path / "clip_tiny_openai.pt"), tmp_path)
    directory = ModelSpec(**{**values, "weights": str(tmp_path), "clip": str(tmp_path)})
    assert changed(directory) == {"weights", "clip"}
    before = spec_fingerprint(directory, vocabulary)
    (tmp_path / "MODEL_CARD.md").write_text("About this model")
    assert spec_fingerprint(directory, vocabulary) == before
    network = load_zegformer(tmp_path)
    with torch.no_grad():
        network.query_positions.add_(1)
    save_zegformer(network, tmp_path)
    after = spec_fingerprint(directory, vocabulary)
    assert {key for key in after if after[key] != before[key]} == {"weights"}


def test_every_setting_is_in_the_fingerprint_and_has_a_default(spec: ModelSpec) -> None:
    parts = spec_fingerprint(spec, Vocabulary(["person", "grass"]))
    of_the_spec = {field.name for field in fields(ModelSpec)} - {"preset", "weights", "clip", "device", "naming"}
    assert parts.keys() == {"weights", "clip", "vocabulary", *of_the_spec, *setting_types()}
    # All versions have recorded the two sides, whose default is the preset's.
    assert default_parts().keys() == parts.keys() - {"weights", "clip", "vocabulary", "short_side", "max_long_side"}


def test_fingerprint_of_weights_that_are_not_there_is_refused(spec: ModelSpec, tmp_path: Path) -> None:
    for missing in (tmp_path / "none.pth", tmp_path):
        gone = ModelSpec(preset="zegformer-r50-coco", weights=str(missing), clip=spec.clip)
        with pytest.raises(ValueError, match="No weights at"):
            spec_fingerprint(gone, Vocabulary(["cow"]))


def test_auto_is_the_processor_where_there_is_no_gpu() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    assert resolve_device("cpu").type == "cpu"
