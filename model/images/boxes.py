"""Boxes around masks: the first and last row and column that hold something."""

from __future__ import annotations

import torch
from torch import Tensor


def mask_boxes(mask_logits: Tensor) -> Tensor:
    """Return (Q, 4) float32 boxes of the positive pixels of (Q, H, W) logits.

    The last column and row are indices of set pixels, not one beyond. A box without area (empty mask, one pixel, one
    row or column) becomes the whole image (0, 0, W, H).
    """
    height, width = mask_logits.shape[-2:]
    # Maxima of floats are several times faster than `any` of booleans.
    first_row, last_row = extent(mask_logits.amax(dim=2) > 0)
    first_column, last_column = extent(mask_logits.amax(dim=1) > 0)
    boxes = torch.stack((first_column, first_row, last_column, last_row), dim=1).float()
    has_area = (last_column > first_column) & (last_row > first_row)
    return torch.where(has_area[:, None], boxes, boxes.new_tensor((0, 0, width, height)))


def extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return first and last set index of each row of (Q, L) bool; (0, 0 or less) for a row with none set."""
    marks = occupied.int()
    last = marks.shape[1] - 1 - marks.flip(1).argmax(dim=1)
    return marks.argmax(dim=1), torch.where(occupied.any(dim=1), last, 0)
