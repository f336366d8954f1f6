"""Official checkpoints fill the model exactly, or say why not; our format brings a model back."""

from __future__ import annotations

import json
import os
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskmill.model.errors import CheckpointError
from maskmill.model.zegformer.baseline import BaselineConfig, PerPixelBaseline
from maskmill.model.zegformer.checkpoint import convert, load_baseline, load_zegformer, save_baseline, save_zegformer
from maskmill.model.zegformer.config import BackboneConfig, ZegFormerConfig
from maskmill.model.zegformer.network import ZegFormer
from maskmill.model.zegformer.official import KEY_MAP, LOGIT_SCALE_KEY, default_heads, infer_config, official_key


@pytest.fixture(scope="module")
def official(golden_path) -> dict[str, torch.Tensor]:
    return torch.load(golden_path / "zegformer_tiny.pth", weights_only=True)["model"]


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def official_state(model: ZegFormer) -> dict[str, torch.Tensor]:
    """What the official training would have stored for this model."""
    state = {official_key(key): value for key, value in model.state_dict().items()}
    return {**state, LOGIT_SCALE_KEY: torch.tensor([100.0]).log()}


def test_every_key_of_model_and_checkpoint_is_used_exactly_once(golden_path, official):
    model = load_zegformer(golden_path / "zegformer_tiny.pth")
    names = [official_key(key) for key in model.state_dict()]
    assert len(set(names)) == len(names)
    assert set(official) - set(names) == {LOGIT_SCALE_KEY, "criterion.empty_weight"}
    for key, parameter in model.state_dict().items():
        assert torch.equal(parameter, official[official_key(key)]), key
    assert not model.training


def test_every_entry_of_the_map_is_used(official):
    config = replace(infer_config(official), encoder_layers=1)
    with torch.device("meta"):
        keys = {official_key(key) for key in ZegFormer(config).state_dict()}
    for name in KEY_MAP.values():
        pattern = re.compile(re.escape(name).replace(r"\{\}", r"\d+") + r"(\.\w+)*")
        assert any(pattern.fullmatch(key) for key in keys), name


def test_our_own_keys_are_not_official_ones():
    with pytest.raises(KeyError):
        official_key("backbone.fc.weight")


def test_the_sizes_of_the_golden_weights(official):
    assert infer_config(official) == ZegFormerConfig(
        backbone=BackboneConfig(stem_channels=16, stage_channels=(32, 64, 128, 256), width_per_group=16),
        conv_dim=32,
        mask_dim=32,
        hidden_dim=64,
        heads=4,
        feedforward_dim=128,
        decoder_layers=3,
        queries=12,
    )


@pytest.mark.parametrize(
    "config",
    [
        ZegFormerConfig(),
        ZegFormerConfig(backbone=BackboneConfig.resnet(101)),
        ZegFormerConfig(
            backbone=BackboneConfig(
                block="basic",
                layers=(2, 1, 3, 1),
                stem_channels=8,
                stage_channels=(16, 24, 32, 40),
                width_per_group=16,
            ),
            conv_dim=64,
            mask_dim=24,
            hidden_dim=128,
            heads=4,
            feedforward_dim=48,
            encoder_layers=2,
            decoder_layers=1,
            queries=7,
            embedding_dim=96,
            memory_feature="res4",
        ),
    ],
    ids=["R-50", "R-101", "other"],
)
def test_sizes_follow_from_the_weights(config):
    with torch.device("meta"):
        state = official_state(ZegFormer(config))
    assert infer_config(state) == config


def test_among_equally_wide_stages_the_memory_is_the_coarsest():
    backbone = BackboneConfig(block="basic", layers=(1, 1, 1, 1), stem_channels=8, stage_channels=(8, 8, 8, 8))
    with torch.device("meta"):
        state = official_state(ZegFormer(ZegFormerConfig(backbone=backbone, memory_feature="res4")))
    assert infer_config(state).memory_feature == "res5"


def test_heads_leave_no_trace_so_there_is_a_rule_and_an_argument(golden_path):
    assert [default_heads(width) for width in (256, 64, 512, 32, 36, 20)] == [8, 4, 16, 4, 4, 4]
    assert default_heads(30) == 3
    path = golden_path / "zegformer_tiny.pth"
    assert load_zegformer(path).config.heads == 4
    assert load_zegformer(path, heads=8).config.heads == 8
    with pytest.raises(ValueError, match="heads must divide hidden_dim 64; got 7"):
        load_zegformer(path, heads=7)


@pytest.mark.parametrize("form", ["pkl of numpy", "pkl of tensors", "pth of numpy", "module.", "half", "bare"])
def test_every_form_of_official_checkpoint_gives_the_same_model(tmp_path, golden_path, official, form):
    arrays = {key: value.numpy() for key, value in official.items()}
    payloads = {
        "pkl of numpy": {"model": arrays, "__author__": "someone", "matching_heuristics": True},
        "pkl of tensors": {"model": official},
        "pth of numpy": {"model": arrays},
        "module.": {"model": {f"module.{key}": value for key, value in official.items()}, "iteration": 3},
        "half": {"model": {key: value.half() for key, value in official.items()}},
        "bare": official,
    }
    path = tmp_path / "checkpoint"
    if form.startswith("pkl"):
        path.write_bytes(pickle.dumps(payloads[form]))
    else:
        torch.save(payloads[form], path)
    model, expected = load_zegformer(path), load_zegformer(golden_path / "zegformer_tiny.pth")
    assert all(parameter.dtype == torch.float32 for parameter in model.state_dict().values())
    assert same_weights(model, expected.half().float() if form == "half" else expected)


MISSING = [
    "backbone.stem.conv1.weight",
    "backbone.res2.0.conv3.weight",
    "backbone.res4.5.conv2.norm.running_var",
    "backbone.res5.0.shortcut.weight",
    "sem_seg_head.pixel_decoder.layer_4.weight",
    "sem_seg_head.pixel_decoder.adapter_1.norm.bias",
    "sem_seg_head.predictor.query_embed.weight",
    "sem_seg_head.predictor.transformer.decoder.layers.0.linear1.weight",
    "sem_seg_head.predictor.transformer.decoder.layers.2.norm3.bias",
    "sem_seg_head.predictor.bg_feature",
    "sem_seg_head.predictor.logit_scale",
]


@pytest.mark.parametrize("key", MISSING)
def test_a_missing_key_is_named(tmp_path, official, key):
    torch.save({"model": {name: value for name, value in official.items() if name != key}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"missing keys: {key.replace('.', '[.]')}"):
        load_zegformer(tmp_path / "a.pth")


def test_all_missing_and_unexpected_keys_are_named(tmp_path, official):
    gone = {"sem_seg_head.predictor.bg_feature", "backbone.res3.1.conv1.weight", LOGIT_SCALE_KEY}
    state = {name: value for name, value in official.items() if name not in gone}
    state["backbone.fc.weight"] = state["sem_seg_head.extra"] = torch.zeros(2)
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        load_zegformer(tmp_path / "a.pth")
    missing, unexpected = str(caught.value).split("missing keys: ")[1].split("; unexpected keys: ")
    assert set(missing.split(", ")) == gone
    assert unexpected == "backbone.fc.weight, sem_seg_head.extra"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "sem_seg_head.predictor.mask_embed.layers.1.weight",
            torch.zeros(64, 63),
            r"mask_embed.layers.1.weight has \(64, 63\), expected \(64, 64\)",
        ),
        ("backbone.res3.0.shortcut.norm.bias", torch.zeros(63), r"res3.0.shortcut.norm.bias has \(63,\)"),
        ("sem_seg_head.predictor.query_embed.weight", torch.zeros(12), "expected 2 dimensions"),
        ("sem_seg_head.predictor.query_embed.weight", torch.zeros(0, 64), "queries must be a positive integer; got 0"),
        ("sem_seg_head.predictor.input_proj.weight", torch.zeros(64, 99, 1, 1), "reads 99 channels; the stages have"),
        ("sem_seg_head.predictor.logit_scale", torch.tensor([3.0]), r"logit_scale is \[3.0\]; only the release's"),
        ("module.sem_seg_head.predictor.bg_feature", torch.zeros(1, 512), "twice, with and without 'module.'"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, official, key, value, message):
    torch.save({"model": {**official, key: value}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        load_zegformer(tmp_path / "a.pth")


def test_a_clip_checkpoint_is_not_a_zegformer(golden_path):
    with pytest.raises(CheckpointError, match=r"clip_tiny_openai.pt is no official ZegFormer checkpoint.*found: "):
        load_zegformer(golden_path / "clip_tiny_openai.pt")


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_truncated_checkpoints_are_refused(tmp_path, golden_path, official, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        content = (golden_path / "zegformer_tiny.pth").read_bytes()
    else:
        content = pickle.dumps({"model": {key: value.numpy() for key, value in official.items()}})
    for share in (0, 0.001, 0.5, 0.99, 0.9999):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(CheckpointError, match=f"a{suffix} is "):
            load_zegformer(path)


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_checkpoint_with_code_is_refused_and_runs_nothing(tmp_path, official, suffix):
    proof = tmp_path / "ran"

    class Plant:
        def __reduce__(self):
            return os.system, (f"touch {proof}",)

    path = tmp_path / f"a{suffix}"
    payload = {"model": {**official, "criterion.empty_weight": Plant()}}
    if suffix == ".pth":
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(payload))
    with pytest.raises(CheckpointError, match="system, which is no part of an array"):
        load_zegformer(path)
    assert not proof.exists()


def test_convert_writes_a_directory_that_loads_as_the_same_model(tmp_path, golden_path):
    source, destination = golden_path / "zegformer_tiny.pth", tmp_path / "deep" / "converted"
    convert(source, destination)
    assert sorted(file.name for file in destination.iterdir()) == ["zegformer.json", "zegformer.safetensors"]
    expected = load_zegformer(source)
    for path in (destination, destination / "zegformer.safetensors"):
        model = load_zegformer(path)
        assert model.config == expected.config
        assert same_weights(model, expected)
    with pytest.raises(ValueError, match=r"heads=8, but .* says 4"):
        load_zegformer(destination, heads=8)
    convert(source, tmp_path / "eight", heads=8)
    assert load_zegformer(tmp_path / "eight").config.heads == 8


def test_options_of_our_own_models_survive(tmp_path):
    backbone = BackboneConfig(
        block="basic", layers=(1, 1, 1, 1), stem_channels=8, stage_channels=(8, 8, 8, 8), norm="batch"
    )
    config = ZegFormerConfig(
        backbone=backbone,
        conv_dim=64,
        hidden_dim=32,
        decoder_layers=2,
        memory_feature="p4",
        masked_attention=True,
        mask_stride=2,
        region_names=True,
    )
    model = ZegFormer(config)
    model.train()(torch.randn(2, 3, 64, 64))
    save_zegformer(model, tmp_path)
    loaded = load_zegformer(tmp_path)
    assert loaded.config == config
    assert same_weights(loaded, model)
    assert loaded.backbone.bn1.num_batches_tracked == 1
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(images).queries, model.eval()(images).queries)
    loaded.train()(images.expand(2, -1, -1, -1)).queries.sum().backward()


def test_the_baseline_comes_back(tmp_path):
    backbone = BackboneConfig(
        block="basic", layers=(1, 1, 1, 1), stem_channels=8, stage_channels=(8, 8, 8, 8), norm="batch"
    )
    model = PerPixelBaseline(BaselineConfig(backbone=backbone, conv_dim=32, mask_dim=16, embedding_dim=12))
    save_baseline(model, tmp_path)
    loaded = load_baseline(tmp_path)
    assert loaded.config == model.config
    assert same_weights(loaded, model)
    assert not loaded.training
    (tmp_path / "baseline.safetensors").rename(tmp_path / "zegformer.safetensors")
    (tmp_path / "baseline.json").rename(tmp_path / "zegformer.json")
    with pytest.raises(CheckpointError, match="is it a checkpoint of another kind"):
        load_zegformer(tmp_path)


@pytest.fixture
def ours(tmp_path, golden_path):
    convert(golden_path / "zegformer_tiny.pth", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[:-20], "zegformer.json is not valid JSON"),
        (lambda text: text.encode()[:50] + b"\xff", "zegformer.json is not valid JSON"),
        (lambda text: "[]", "is it a checkpoint of another kind"),
        (lambda text: text.replace('"queries"', '"querys"'), "unknown ZegFormerConfig keys querys"),
        (lambda text: text.replace('"queries": 12', '"queries": "12"'), "queries must be a positive integer; got '12'"),
        (lambda text: text.replace('"queries": 12', '"queries": 13'), r"query_positions has \(12, 64\), expected"),
        (
            lambda text: text.replace('"decoder_layers": 3', '"decoder_layers": 2'),
            "unexpected keys: transformer.decoder.2",
        ),
        (lambda text: text.replace('"dropout": 0.1', '"dropout": null'), "no valid configuration"),
        (lambda text: text.replace('"layers": [', '"layers": 3, "x": ['), "no valid configuration"),
        (lambda text: json.dumps({**json.loads(text), "config": None}), "no valid configuration"),
        (lambda text: json.dumps({**json.loads(text), "format_version": 2}), "is it a checkpoint of another kind"),
    ],
)
def test_a_wrong_configuration_is_named(ours, edit, message):
    path = ours / "zegformer.json"
    edited = edit(path.read_text())
    assert edited != path.read_text()
    path.write_bytes(edited if isinstance(edited, bytes) else edited.encode())
    with pytest.raises(CheckpointError, match=message):
        load_zegformer(ours)


def test_truncated_safetensors_are_refused(ours):
    path = ours / "zegformer.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"zegformer.safetensors is damaged"):
        load_zegformer(ours)


def test_what_is_not_there_is_not_called_damaged(tmp_path):
    for path in (tmp_path, tmp_path / "none.pth", tmp_path / "none.safetensors"):
        with pytest.raises(FileNotFoundError):
            load_zegformer(path)


def test_numbers_survive_the_trip_bit_for_bit(ours, official):
    loaded = load_zegformer(ours)
    weight = loaded.state_dict()["class_projection.weight"].numpy()
    np.testing.assert_array_equal(weight, official["sem_seg_head.predictor.projection_layer.weight"].numpy())
