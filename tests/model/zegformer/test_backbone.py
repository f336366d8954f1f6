"""The backbone is torchvision's ResNet."""

from __future__ import annotations

import pytest
import torch
import torchvision

from maskmill.model.zegformer.backbone import Backbone
from maskmill.model.zegformer.config import BackboneConfig


def test_equals_torchvisions_resnet_50():
    torch.manual_seed(0)
    reference = torchvision.models.resnet50(norm_layer=torchvision.ops.FrozenBatchNorm2d).eval()
    backbone = Backbone(BackboneConfig.resnet(50)).eval()
    renamed = {}
    for key, value in reference.state_dict().items():
        for index in range(4):
            key = key.replace(f"layer{index + 1}.", f"stages.res{index + 2}.")
        renamed[key] = value
    backbone.load_state_dict({key: value for key, value in renamed.items() if not key.startswith("fc.")})
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        features = backbone(images)
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
        for index in range(4):
            x = getattr(reference, f"layer{index + 1}")(x)
            assert torch.equal(features[f"res{index + 2}"], x)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_widths_and_strides_are_as_configured(block):
    widths = (32, 64, 128, 256)
    config = BackboneConfig(
        block=block, layers=(1, 2, 1, 1), stem_channels=8, stage_channels=widths, width_per_group=16, norm="batch"
    )
    backbone = Backbone(config)
    features = backbone(torch.randn(2, 3, 64, 96))
    sizes = {name: tuple(feature.shape) for name, feature in features.items()}
    assert sizes == {
        f"res{index + 2}": (2, width, 64 >> (index + 2), 96 >> (index + 2)) for index, width in enumerate(widths)
    }
    if block == "bottleneck":
        for index, (name, stage) in enumerate(backbone.stages.items()):
            assert stage[0].conv2.out_channels == 16 << index, name
            assert stage[0].conv2.stride == ((1, 1) if index == 0 else (2, 2))
            assert stage[0].conv1.stride == (1, 1)


def test_narrow_explicit_widths():
    config = BackboneConfig(block="basic", layers=(1, 1, 1, 1), stem_channels=24, stage_channels=(24, 48, 96, 160))
    features = Backbone(config)(torch.randn(1, 3, 64, 64))
    assert [feature.shape[1] for feature in features.values()] == [24, 48, 96, 160]
