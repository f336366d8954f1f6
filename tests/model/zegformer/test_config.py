"""Configurations survive JSON, and wrong ones say what would be right."""

from __future__ import annotations

import json

import pytest

from maskmill.model.zegformer.baseline import BaselineConfig
from maskmill.model.zegformer.config import BackboneConfig, ZegFormerConfig


@pytest.mark.parametrize(
    "config",
    [
        ZegFormerConfig(),
        ZegFormerConfig(
            backbone=BackboneConfig(block="basic", stage_channels=(24, 48, 96, 160), norm="batch"),
            memory_feature="res4",
            masked_attention=True,
        ),
        BaselineConfig(backbone=BackboneConfig.resnet(101), embedding_dim=96),
        BackboneConfig.resnet(101),
    ],
)
def test_json_brings_a_config_back(config):
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BackboneConfig(block="resnext"), "Unknown block 'resnext'. Choose from: basic, bottleneck"),
        (lambda: BackboneConfig(norm="layer"), "Unknown norm 'layer'. Choose from: frozen, batch"),
        (lambda: BackboneConfig.resnet(18), "Unknown depth 18. Choose from: 50, 101"),
        (lambda: BackboneConfig(layers=(3, 4, 6)), "layers must be 4 positive integers"),
        (lambda: BackboneConfig(stage_channels=(64, 0, 64, 64)), "stage_channels must be 4 positive integers"),
        (
            lambda: BackboneConfig(stage_channels=(24, 48, 100, 200)),
            "a bottleneck of 64 channels does not fit stage_channels 24 at res2",
        ),
        (lambda: ZegFormerConfig(conv_dim=48), "conv_dim must be a multiple of 32 with mask_stride 4; got 48"),
        (lambda: BaselineConfig(conv_dim=48), "conv_dim must be a multiple of 32 with mask_stride 4; got 48"),
        (lambda: ZegFormerConfig(conv_dim=96, mask_stride=2), "conv_dim must be a multiple of 64 with mask_stride 2"),
        (lambda: BaselineConfig(mask_stride=8), "Unknown mask_stride 8. Choose from: 2, 4"),
        (lambda: ZegFormerConfig(temperature=0.0), "temperature must be in 0..1, 0 excluded; got 0.0"),
        (lambda: BaselineConfig(temperature=2.0), "temperature must be in 0..1, 0 excluded; got 2.0"),
        (lambda: ZegFormerConfig(hidden_dim=64, heads=7), "heads must divide hidden_dim 64; got 7"),
        (lambda: ZegFormerConfig(hidden_dim=6, heads=2), "hidden_dim must be a multiple of 4"),
        (lambda: ZegFormerConfig(queries=0), "queries must be a positive integer; got 0"),
        (lambda: ZegFormerConfig(encoder_layers=-1), "encoder_layers must be an integer >= 0"),
        (lambda: ZegFormerConfig(dropout=1.0), "dropout must be in 0..1"),
        (lambda: ZegFormerConfig(memory_feature="res6"), "Unknown memory_feature 'res6'. Choose from: res2, res3"),
        (lambda: ZegFormerConfig.from_dict({"querys": 5}), "unknown ZegFormerConfig keys querys; valid keys: backbone"),
        (lambda: BackboneConfig.from_dict({"depth": 50}), "unknown BackboneConfig keys depth; valid keys: block"),
    ],
)
def test_what_is_wrong_says_what_is_right(make, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make()
