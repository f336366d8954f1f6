"""The per-pixel baseline: embeddings per pixel, compared with class names."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from maskmill.model.zegformer.baseline import BaselineConfig, PerPixelBaseline, pixel_logits
from maskmill.model.zegformer.config import BackboneConfig


@pytest.fixture
def baseline() -> PerPixelBaseline:
    torch.manual_seed(0)
    backbone = BackboneConfig(
        block="basic", layers=(1, 1, 1, 1), stem_channels=8, stage_channels=(8, 16, 24, 32), norm="batch"
    )
    return PerPixelBaseline(BaselineConfig(backbone=backbone, conv_dim=32, mask_dim=16, embedding_dim=12))


def test_every_pixel_has_a_unit_embedding_at_stride_4(baseline):
    embeddings = baseline(torch.randn(2, 3, 64, 96))
    assert embeddings.shape == (2, 12, 16, 24)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2, 16, 24))


def test_logits_are_cosines_over_the_temperature_upsampled():
    embeddings = torch.zeros(1, 2, 4, 4)
    embeddings[:, 0, :, :2] = 1  # left half looks like class 0, right half like class 1
    embeddings[:, 1, :, 2:] = 1
    logits = pixel_logits(embeddings, torch.eye(2), size=(16, 16))
    assert logits.shape == (1, 2, 16, 16)
    assert logits[0, :, 0, 0].tolist() == [100.0, 0.0]
    assert logits[0, :, 8, 15].tolist() == [0.0, 100.0]
    assert torch.equal(logits.argmax(dim=1)[0, 5], torch.tensor([0] * 8 + [1] * 8))


def test_it_learns_to_name_pixels(baseline):
    text = F.normalize(torch.randn(3, 12), dim=-1)
    images, target = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long)
    target[:, :, 32:] = 2
    images[:, :, :, 32:] += 3
    optimizer = torch.optim.AdamW(baseline.parameters(), lr=1e-3)
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(pixel_logits(baseline(images), text, size=(64, 64)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in baseline.parameters())
    assert losses[-1] < 0.2 * losses[0]
