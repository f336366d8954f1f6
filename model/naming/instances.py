"""Queries as instances: which query each pixel belongs to, by MaskFormer's panoptic rule.

Legend for shapes: Q queries, K of them that take part, H x W pixels of the output, h x w mask cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskmill.model.naming.semantic import Frame, choose_resized, image_rows, output_rows, row_bands
from maskmill.model.networks.device_policy import CPU_POLICY, DevicePolicy

MASK_THRESHOLD = 0.5
OVERLAP_THRESHOLD = 0.8
"""A query that keeps less than this share of its own mask is dropped."""


def query_map(scores: Tensor, mask_logits: Tensor, frame: Frame, policy: DevicePolicy = CPU_POLICY) -> Tensor:
    """Return the (H, W) int16 query each pixel belongs to, -1 where none does.

    A pixel goes to the query with the largest score * sigmoid(mask), if its mask probability there is at least 0.5.
    Queries that so keep less than ``OVERLAP_THRESHOLD`` of their own mask, at image size, are dropped, and their
    pixels with them.

    scores: (Q,) of the queries; those with score 0 or less take no part. mask_logits: (Q, h, w). policy: how large a
    band of the image may be.
    """
    owners = torch.full(frame.output_size, -1, dtype=torch.int16, device=scores.device)
    taking_part = (scores > 0).nonzero()[:, 0]
    if not len(taking_part):
        return owners
    scores, mask_logits = scores[taking_part], mask_logits[taking_part]
    kept = _keeps_its_mask(scores, mask_logits, frame, policy)
    # The choices of _owner: K owners, then K times none.
    names = torch.cat((torch.where(kept, taking_part, -1), torch.full_like(taking_part, -1))).to(owners.dtype)
    for start, stop in row_bands(frame, len(scores), policy):
        rows = output_rows(frame, start, stop)
        weighted = _weighted(scores, mask_logits, frame, *rows.span)
        owners[start:stop] = names[choose_resized(weighted, lambda values: _owner(values, scores), frame, rows, policy)]
    return owners


def _keeps_its_mask(scores: Tensor, mask_logits: Tensor, frame: Frame, policy: DevicePolicy) -> Tensor:
    """Return (K,) bool, whether a query owns enough of its mask at image size."""
    owned = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    covered = torch.zeros_like(owned)
    image = Frame(padded_size=frame.padded_size, image_size=frame.image_size, output_size=frame.image_size)
    for start, stop in row_bands(image, len(scores), policy):
        weighted = _weighted(scores, mask_logits, frame, start, stop)
        owner = _owner(weighted, scores)
        owned += torch.bincount(owner, minlength=2 * len(scores))[: len(scores)]
        covered += (weighted >= MASK_THRESHOLD * scores).sum(dim=0)
    return owned >= OVERLAP_THRESHOLD * covered


def _weighted(scores: Tensor, mask_logits: Tensor, frame: Frame, start: int, stop: int) -> Tensor:
    """Return (N, K) score * probability of the pixels of image rows start..stop."""
    return image_rows(mask_logits, frame, start, stop).sigmoid().flatten(1).T * scores


def _owner(weighted: Tensor, scores: Tensor) -> Tensor:
    """Return (N,) the best query's index, plus K where its own mask does not reach the threshold."""
    best, owner = weighted.max(dim=1)
    return torch.where(best >= MASK_THRESHOLD * scores[owner], owner, owner + len(scores))
