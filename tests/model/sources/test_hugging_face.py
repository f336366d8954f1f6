"""The library's mask transformers as sources of proposals, with tiny random networks saved as the hub saves them."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from maskmill.model.errors import CheckpointError
from maskmill.model.sources import hugging_face
from maskmill.model.sources.hugging_face import InputRules, class_names, input_rules, load
from tests.model.sources.pil_processors import has_plain_names, pil_processor
from tests.model.sources.tiny_models import MASK_TRANSFORMERS, NAMES, save

SIZES = [(97, 140), (140, 97), (64, 64), (31, 200)]
SMALL_SIZE = {"size": {"shortest_edge": 64, "longest_edge": 96}}
"""What the folders' preprocessor_config.json says, so that tiny networks get tiny pictures."""


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each kind."""
    root = tmp_path_factory.mktemp("checkpoints")
    saved = {kind: save(kind, root / kind) for kind in MASK_TRANSFORMERS}
    for kind, folder in saved.items():
        if kind != "eomt":
            (folder / "preprocessor_config.json").write_text(json.dumps(SMALL_SIZE))
    return saved


def library_input(kind: str, image: np.ndarray, folder: Path) -> torch.Tensor:
    """Return (3, H, W), what the library's own processor makes of the picture; ``folder`` takes a file it asks for."""
    common = {"images": image, "return_tensors": "pt"}
    if kind == "eomt":
        size = {"shortest_edge": 64, "longest_edge": 64}
        return pil_processor("eomt")(size=size, do_pad=True)(**common)["pixel_values"][0]
    if kind == "mask2former":
        return pil_processor("mask2former")(**SMALL_SIZE)(**common)["pixel_values"][0]
    if kind == "maskformer":
        return pil_processor("maskformer")(**SMALL_SIZE)(**common)["pixel_values"][0]
    classes = folder / "class_info.json"
    classes.write_text(json.dumps({"0": {"name": "person", "isthing": 1}}))
    # The processor's public call fetches texts of the task from the hub.
    processor = pil_processor("oneformer")(**SMALL_SIZE, repo_path=None, class_info_file=str(classes))
    resized = processor.resize(image.transpose(2, 0, 1), processor.size, processor.resample)
    return torch.from_numpy(
        processor.normalize(processor.rescale(resized, 1 / 255), processor.image_mean, processor.image_std)
    )


@pytest.mark.parametrize("kind", MASK_TRANSFORMERS)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_prepared_as_by_the_library(
    folders: dict[str, Path], kind: str, size: tuple[int, int], tmp_path: Path
) -> None:
    image = picture(size)
    rules, theirs = load(folders[kind]).rules, library_input(kind, image, tmp_path)
    ours = rules.prepare(image)
    height, width = theirs.shape[1:]
    if kind == "oneformer" and has_plain_names(kind) and (height, width) != rules.size_of(*size):
        # Where the long side is limited, version 5.3 rounds the short side down; later ones round to the nearest.
        assert (height + 1, width) == rules.size_of(*size)
        return
    # OneFormer's input is padded further here, to whole strides of its backbone.
    assert (ours[:, :height, :width] - theirs).abs().max() <= 1e-5
    assert kind == "oneformer" or ours.shape == theirs.shape
    assert not ours[:, height:].any()
    assert not ours[:, :, width:].any()


@pytest.mark.parametrize("kind", MASK_TRANSFORMERS)
def test_logits_and_objectness_are_the_networks(folders: dict[str, Path], kind: str) -> None:
    source, image = load(folders[kind]), picture((97, 140))
    pixels = source.rules.prepare(image)[None]
    extra = {"task_inputs": hugging_face.task_tokens()} if kind == "oneformer" else {}
    with torch.inference_mode():
        expected = source.network(pixel_values=pixels, **extra)
    [own] = source([image])
    torch.testing.assert_close(own.mask_logits, expected.masks_queries_logits[0], rtol=0, atol=0)
    classes = expected.class_queries_logits[0].exp()
    by_hand = classes / classes.sum(dim=1, keepdim=True)
    torch.testing.assert_close(own.objectness, 1 - by_hand[:, -1], rtol=0, atol=1e-6)
    assert own.class_probabilities is not None
    torch.testing.assert_close(own.class_probabilities, by_hand[:, : len(NAMES)], rtol=0, atol=1e-6)
    assert own.query_embeddings is None
    assert source.names == tuple(NAMES.values())


@pytest.mark.parametrize("kind", MASK_TRANSFORMERS)
def test_no_result_depends_on_companions(folders: dict[str, Path], kind: str) -> None:
    source = load(folders[kind])
    images = [picture(size, seed) for seed, size in enumerate([(97, 140), (97, 140), (64, 64)])]
    together, alone = source(images), [source([image])[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.mask_logits, other.mask_logits)
        assert torch.equal(one.objectness, other.objectness)
    assert source([]) == []


def test_the_area_that_masks_cover() -> None:
    """A picture of 3 x 2 fills the upper two thirds of EoMT's square, whatever its size in pixels."""
    rules = input_rules({"model_type": "eomt", "image_size": 64}, {})
    assert rules.size_of(100, 150) == (43, 64)
    assert rules.covered_size(100, 150) == (150, 150)
    picture_ = np.full((100, 150, 3), 255, np.uint8)
    assert rules.prepare(picture_).shape == (3, 64, 64)
    white = rules.prepare(picture_)[0] > 0
    assert white[:43].all()
    assert not white[43:].any()
    stretched = input_rules({"model_type": "mask2former"}, {"size": {"shortest_edge": 64, "longest_edge": 96}})
    assert (stretched.size_of(100, 150), stretched.covered_size(100, 150)) == ((64, 96), (100, 150))
    assert stretched.size_of(64, 70) == (64, 96)  # stretched, not padded
    padded = input_rules({"model_type": "oneformer"}, {"size": {"shortest_edge": 64, "longest_edge": 200}})
    assert (padded.size_of(64, 70), padded.covered_size(64, 70)) == ((64, 70), (64, 96))


def test_settings_of_the_folder_are_used() -> None:
    processor: dict[str, Any] = {
        "size": 48,
        "max_size": 80,
        "size_divisor": 0,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.25, 0.5],
        "rescale_factor": 1 / 255,
    }
    rules = input_rules({"model_type": "mask2former"}, processor)
    expected = InputRules(
        short_side=48, long_side=80, square=False, stretch_to=0, mean=(127.5,) * 3, std=(127.5, 63.75, 127.5)
    )
    assert rules == expected


def test_attention_masks_left_in_the_file_do_not_make_results_random(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folders["eomt"] / "config.json").read_bytes())
    weights = load_file(folders["eomt"] / "model.safetensors")
    weights["attn_mask_probs"] = torch.full_like(weights["attn_mask_probs"], 0.5)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    source, image = load(tmp_path), picture((97, 140))
    [first], [second], [clean] = source([image]), source([image]), load(folders["eomt"])([image])
    assert torch.equal(first.mask_logits, second.mask_logits)
    assert torch.equal(first.mask_logits, clean.mask_logits)


def test_placeholders_are_no_names() -> None:
    assert class_names({0: "LABEL_0", 1: "LABEL_1"}) is None
    assert class_names({}) is None
    assert class_names({"1": "sky", "0": "cat"}) == ("cat", "sky")
    assert class_names({0: "cat", 2: "sky"}) is None


def test_a_checkpoint_without_names_gives_no_class_probabilities(tmp_path: Path) -> None:
    save("eomt", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {str(number): f"LABEL_{number}" for number in range(3)}
    config["label2id"] = {name: int(number) for number, name in config["id2label"].items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = load(tmp_path)
    [own] = source([picture((64, 64))])
    assert source.names is None
    assert own.class_probabilities is None
    assert own.objectness is not None


def test_pickles_are_refused_with_a_way_out(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folders["eomt"] / "config.json").read_bytes())
    torch.save(load_file(folders["eomt"] / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only as pickles \(pytorch_model.bin\).*@COMMIT"):
        load(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "has no config.json"),
        ("{", "config.json is damaged"),
        ("[]", "must hold an object"),
        ('{"model_type": "bert"}', "'bert'; supported: eomt"),
        ('{"model_type": "eomt"}', "holds no weights"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_weights_of_another_shape_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folders["eomt"] / "config.json").read_bytes())
    weights = load_file(folders["eomt"] / "model.safetensors")
    del weights["query.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing_keys.*query.weight"):
        load(tmp_path)


def test_a_semantic_eomt_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folders["eomt"] / name).read_bytes())
    (tmp_path / "preprocessor_config.json").write_text('{"do_split_image": true}')
    with pytest.raises(CheckpointError, match="panoptic"):
        load(tmp_path)


@pytest.mark.parametrize("kind", MASK_TRANSFORMERS)
def test_loading_and_running_touch_no_network(
    folders: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(load(folders[kind])([picture((64, 64))])) == 1
