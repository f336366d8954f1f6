"""Starting segmentation training from a torchvision ResNet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models.resnet import Bottleneck, ResNet

from maskmill.model.zegformer.backbone import Backbone
from maskmill.model.zegformer.config import BackboneConfig
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.training.grouping import load_backbone


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_the_backbone_computes_what_torchvision_does(norm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = ResNet(Bottleneck, [1, 1, 1, 1]).eval()
    for name, buffer in theirs.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    ours = Backbone(BackboneConfig(layers=(1, 1, 1, 1), norm=norm)).eval()  # type: ignore[arg-type]
    load_backbone(ours, tmp_path / "resnet.pth")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        expected = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x))))
        torch.testing.assert_close(ours(images)["res5"], expected, rtol=1e-5, atol=1e-5)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = ResNet(Bottleneck, [1, 1, 1, 1]).state_dict()
    del state["layer2.0.conv2.weight"]
    torch.save(state, tmp_path / "resnet.pth")
    backbone = Backbone(BackboneConfig(layers=(1, 1, 1, 1)))
    with pytest.raises(UsageError, match=r"missing: \['stages\.res3\.0\.conv2\.weight'\]"):
        load_backbone(backbone, tmp_path / "resnet.pth")
    with pytest.raises(UsageError, match="no file"):
        load_backbone(backbone, tmp_path / "absent.pth")
