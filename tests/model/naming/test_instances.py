from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.model.naming.instances import MASK_THRESHOLD, OVERLAP_THRESHOLD, query_map
from maskmill.model.naming.semantic import Frame
from maskmill.model.networks.device_policy import CPU_POLICY

FRAME = Frame(padded_size=(64, 96), image_size=(50, 90), output_size=(131, 77))
SAME = Frame(padded_size=(64, 96), image_size=(50, 90), output_size=(50, 90))


def made_up(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 9, 5, 7, generator=generator) * 6 - 6
    return torch.rand(9, generator=generator), F.interpolate(coarse, (16, 24), mode="bicubic")[0]


def plain_query_map(scores: Tensor, mask_logits: Tensor, frame: Frame) -> Tensor:
    """The rule written out on whole maps."""

    def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]

    def owners(masks: Tensor) -> Tensor:
        owner = (masks * scores[:, None, None]).argmax(dim=0)
        return torch.where(masks.gather(0, owner[None])[0] >= MASK_THRESHOLD, owner, -1)

    height, width = frame.image_size
    masks = resize(mask_logits, frame.padded_size)[:, :height, :width].sigmoid()
    at_image_size = owners(masks)
    labels = owners(resize(masks, frame.output_size))
    for query, mask in enumerate(masks):
        owned, covered = (at_image_size == query).sum(), (mask >= MASK_THRESHOLD).sum()
        if owned < OVERLAP_THRESHOLD * covered:
            labels[labels == query] = -1
    return labels


@pytest.mark.parametrize("frame", [FRAME, SAME])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_rule_written_out(frame: Frame, seed: int) -> None:
    scores, mask_logits = made_up(seed)
    expected = plain_query_map(scores, mask_logits, frame)
    assert torch.equal(query_map(scores, mask_logits, frame).long(), expected)
    assert len(expected.unique()) > 2  # some query kept, some pixel free


def test_bands_change_nothing() -> None:
    scores, mask_logits = made_up()
    whole = query_map(scores, mask_logits, FRAME)
    bands = replace(CPU_POLICY, band_pixels=3 * FRAME.output_size[1])
    assert torch.equal(query_map(scores, mask_logits, FRAME, bands), whole)


def test_queries_without_a_score_take_no_part() -> None:
    scores, mask_logits = made_up()
    some = scores.clone()
    some[::2] = 0
    owners = query_map(some, mask_logits, FRAME)
    # The others are numbered as they were.
    left = query_map(scores[1::2], mask_logits[1::2], FRAME)
    assert torch.equal(owners, torch.where(left >= 0, 2 * left + 1, -1))
    assert (query_map(torch.zeros(9), mask_logits, FRAME) == -1).all()


def test_a_query_mostly_hidden_by_a_better_one_is_dropped() -> None:
    masks = torch.full((2, 8, 8), -10.0)
    masks[0, :, :6] = 10
    masks[1, :, 5:] = 10  # three columns, of which the better query takes one
    frame = Frame(padded_size=(8, 8), image_size=(8, 8), output_size=(8, 8))
    owners = query_map(torch.tensor([0.9, 0.8]), masks, frame)
    assert owners.unique().tolist() == [-1, 0]
    masks[0, :, 5] = -10
    assert query_map(torch.tensor([0.9, 0.8]), masks, frame).unique().tolist() == [0, 1]
