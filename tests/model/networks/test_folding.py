"""Batch norms folded into convolutions: the same results from fewer layers."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torchvision.models import resnet18

from maskmill.model.networks.folding import fold_batch_norms


def network() -> nn.Module:
    """A ResNet whose batch norms do something, as after training."""
    torch.manual_seed(0)
    made = resnet18(num_classes=7)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return made


@torch.inference_mode()
def test_a_folded_network_gives_the_same() -> None:
    original, images = network().eval(), torch.randn(2, 3, 64, 64)
    folded = fold_batch_norms(copy.deepcopy(original))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    expected = original(images)
    # 4e-7 of the range measured.
    torch.testing.assert_close(folded(images), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
