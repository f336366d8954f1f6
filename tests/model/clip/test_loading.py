from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from maskmill.model.clip.clip import Clip
from maskmill.model.clip.loading import load_clip, new_clip, save_clip
from maskmill.model.errors import CheckpointError

Golden = Callable[[str], dict[str, np.ndarray]]

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "patch_size": None},
    "text_cfg": {"context_length": 16, "vocab_size": 600, "width": 64, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def tiny(golden_path: Path) -> Clip:
    return load_clip(golden_path / "clip_tiny_openai.pt")


@pytest.fixture
def small(tmp_path: Path) -> Clip:
    merges = tmp_path / "merges.txt.gz"
    with gzip.open(merges, "wt") as file:
        file.write("#version: 0.2\nr e\nre d</w>\n")
    torch.manual_seed(0)
    return new_clip(SMALL, bpe_path=merges)


def test_sizes_are_read_from_the_weights(tiny: Clip) -> None:
    assert (tiny.image_size, tiny.embed_dim) == (224, 512)
    assert tiny.config["vision_cfg"]["patch_size"] == 32
    assert tiny.config["quick_gelu"] is True
    assert tiny.logit_scale == pytest.approx(100, rel=1e-6)


def test_half_precision_weights_become_float32(tiny: Clip) -> None:
    assert {parameter.dtype for parameter in tiny.model.parameters()} == {torch.float32}


def test_tokens_equal_the_release(tiny: Clip, golden: Golden) -> None:
    text = golden("text_features")
    sentences = [f"A photo of a {name} in the scene" for name in text["class_names"]]
    np.testing.assert_array_equal(tiny.tokenizer(sentences).numpy(), text["tokens_single_scene"])


def test_text_encoder_equals_the_release(tiny: Clip, golden: Golden) -> None:
    text = golden("text_features")
    sentences = [f"A photo of a {name} in the scene" for name in text["class_names"]]
    # Values reach 4.1; 3.0e-6 measured.
    np.testing.assert_allclose(tiny.encode_text(sentences).numpy(), text["encode_text_raw_single_scene"], atol=1e-5)


def test_leaving_out_positions_after_the_text_changes_nothing(tiny: Clip) -> None:
    sentences = ["cow", "A photo of a traffic light in the scene", "a " * 200]
    with torch.no_grad():
        expected = tiny.model.encode_text(tiny.tokenizer(sentences))
    torch.testing.assert_close(tiny.encode_text(sentences), expected, atol=1e-5, rtol=0)


def test_saved_clip_comes_back_the_same(tiny: Clip, tmp_path: Path) -> None:
    save_clip(tiny, tmp_path)
    again = load_clip(tmp_path)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.encode_image(images), tiny.encode_image(images))
    assert torch.equal(again.encode_text(["cow"]), tiny.encode_text(["cow"]))
    assert again.text_fingerprint() == tiny.text_fingerprint()


def test_own_tokenizer_and_residual_network_are_saved_with_it(small: Clip, tmp_path: Path) -> None:
    small.model.eval()
    save_clip(small, tmp_path / "saved")
    again = load_clip(str(tmp_path / "saved"))
    assert again.tokenizer(["a red circle"]).tolist() == small.tokenizer(["a red circle"]).tolist()
    assert again.tokenizer(["red"])[0, 1] == 513  # the second merge: 512 bytes, then "re", then "red"
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.encode_image(images), small.encode_image(images))


def test_fingerprint_tells_text_weights_apart(small: Clip) -> None:
    before = small.text_fingerprint()
    with torch.no_grad():
        small.model.visual.attnpool.c_proj.bias.add_(1)
        assert small.text_fingerprint() == before
        small.model.ln_final.bias.add_(1e-6)
    assert small.text_fingerprint() != before


def test_half_precision_is_for_the_image_encoder_only(golden_path: Path, tiny: Clip) -> None:
    half = load_clip(golden_path / "clip_tiny_openai.pt", dtype=torch.bfloat16)
    assert half.image_dtype == torch.bfloat16
    assert torch.equal(half.encode_text(["cow"]), tiny.encode_text(["cow"]))
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    encoded, exact = half.encode_image(images), tiny.encode_image(images)
    assert encoded.dtype == torch.float32
    # Cosines of 0.9998 and more measured.
    assert torch.cosine_similarity(encoded, exact).min() > 0.999


@pytest.fixture
def architecture(tmp_path: Path) -> str:
    """The name of a small architecture in open_clip's list."""
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 128, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    }
    path = tmp_path / "maskmill-test-vit.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return path.stem


def checkpoint(architecture: str, image_size: int, path: Path) -> open_clip.CLIP:
    """Write a checkpoint as open_clip's training does: wrapped, and with the prefix of distributed training."""
    config = open_clip.get_model_config(architecture)
    config["vision_cfg"]["image_size"] = image_size
    torch.manual_seed(0)
    model = open_clip.CLIP(**config).eval()
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"epoch": 1, "name": "run", "state_dict": state}, path)
    return model


def test_open_clip_checkpoint_of_a_named_architecture_keeps_its_resolution(architecture: str, tmp_path: Path) -> None:
    model = checkpoint(architecture, 96, tmp_path / "epoch_1.pt")
    loaded = load_clip(f"{architecture}:{tmp_path / 'epoch_1.pt'}")
    assert loaded.image_size == 96
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.encode_image(images), model.encode_image(images))


def test_bare_open_clip_checkpoint_warns_that_its_activation_is_a_guess(architecture: str, tmp_path: Path) -> None:
    model = checkpoint(architecture, 64, tmp_path / "epoch_1.pt")
    with pytest.warns(UserWarning, match="does not tell its activation"):
        loaded = load_clip(tmp_path / "epoch_1.pt")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.encode_image(images), model.encode_image(images))


def test_weights_of_another_architecture_are_refused_by_key(architecture: str, golden_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"missing \[\].*unexpected \['transformer.resblocks.1.*visual.proj \(64, 512\)"
    ):
        load_clip(f"{architecture}:{golden_path / 'clip_tiny_openai.pt'}")


def test_vision_too_wide_to_know_its_heads_is_refused(golden_path: Path, tmp_path: Path) -> None:
    weights = torch.load(golden_path / "clip_tiny_openai.pt", weights_only=True)
    weights["visual.conv1.weight"] = torch.zeros(1280, 3, 32, 32)
    torch.save(weights, tmp_path / "wide.pt")
    with pytest.raises(CheckpointError, match="number of heads"):
        load_clip(tmp_path / "wide.pt")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no-such-file.pt", "No CLIP at 'no-such-file.pt'"),
        ("ViT-Z-16:openai", r"Unknown open_clip architecture 'ViT-Z-16'.*ViT-B-16-quickgelu"),
        ("ViT-B-16:opena", r"No weights 'opena' for ViT-B-16.*openai"),
        ("ViT-B-16:openai", "wrong activation; use ViT-B-16-quickgelu:openai"),
        ("ViT-B-16-quickgelu:laion2b_s34b_b88k", r"No weights|wrong activation; use ViT-B-16:"),
        ("coca_ViT-B-32:laion2b_s13b_b90k", "captioning models are not supported"),
    ],
)
def test_wrong_source_is_refused_with_the_right_ones(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_clip(source)


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    torch.save({"logit_scale": _Bomb(target)}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"logit_scale": _Bomb(target)}, protocol=2))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match="refused"):
            load_clip(tmp_path / name)
    assert not target.exists()


def test_torchscript_archive_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "ViT-B-16.pt"))
    with pytest.raises(CheckpointError, match="ViT-B-16-quickgelu:openai"):
        load_clip(tmp_path / "ViT-B-16.pt")


def test_file_without_names_and_tensors_is_refused(tmp_path: Path) -> None:
    for content in ([torch.zeros(1)], {}, {"a": 3}, {1: torch.zeros(1)}):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(CheckpointError, match="no state dict"):
            load_clip(tmp_path / "other.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not an OpenAI-style CLIP"):
        load_clip(tmp_path / "other.pt")


def test_truncated_checkpoint_is_refused(golden_path: Path, tmp_path: Path) -> None:
    whole = (golden_path / "clip_tiny_openai.pt").read_bytes()
    for name, content in {
        "half.pt": whole[: len(whole) // 2],
        "none.pt": b"",
        "half.safetensors": b"12345678{",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError):
            load_clip(tmp_path / name)


def test_directory_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no clip\.json"):
        load_clip(tmp_path)


def test_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="49408 tokens"):
        new_clip(SMALL)
