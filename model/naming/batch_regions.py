"""Sub-images of all images of a batch in one go: the way of GPUs, in which no number is waited for.

Legend for shapes: B images of one padded size H x W, Q queries of each, P = B * Q queries in all, N of them whose mask
has a cell, h x w mask cells, S side of CLIP's input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from maskmill.model.networks.device_policy import DevicePolicy
from maskmill.model.networks.transfers import constant


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """The queries whose mask has a cell. Masks without one have no pixel either: pixels lie between the cells' values.

    queries: (N,) int64, their positions among all P, ascending. images: (N,) int64, the image of each.
    """

    queries: Tensor
    images: Tensor

    def split(self, count: int) -> list[Filled]:
        """Return parts of at most ``count`` queries."""
        parts = zip(self.queries.split(count), self.images.split(count), strict=True)
        return [Filled(queries=queries, images=images) for queries, images in parts]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRegions:
    """What CLIP is shown. boxes: (P, 4) as ``region_boxes`` of ``maskmill.model.naming.regions`` has them.

    sub_images: (N, 3, S, S) of the filled queries; with region "crop" (N + B, 3, S, S), at the end the whole images,
    which stand for the empty masks. None where only boxes are asked for.
    """

    boxes: Tensor
    sub_images: Tensor | None


def batch_regions(
    pixels: Tensor | None,
    mask_logits: Tensor,
    filled: Filled,
    padded_size: tuple[int, int],
    region: str,
    size: int,
    policy: DevicePolicy,
) -> BatchRegions:
    """Cut the sub-images of all filled queries, and find the boxes of all queries.

    pixels: (B, 3, H, W) float32, CLIP-normalised, 0 in the padding; None for boxes alone. mask_logits: (B, Q, h, w).
    region: "crop", "mask" or "cropmask". size: S. A mask that turns out to have no pixel has an all-zero sub-image,
    which is what it would be given.
    """
    height, width = padded_size
    flat = mask_logits.flatten(0, 1)
    whole = constant((0, 0, width, height), mask_logits.device)
    boxes = whole.repeat(len(flat), 1)
    shrunk = None
    if pixels is not None and region == "mask":
        shrunk = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
    parts = []
    for part in filled.split(max(1, policy.mask_pixels // (height * width))):
        logits = F.interpolate(
            flat.index_select(0, part.queries)[:, None], padded_size, mode="bilinear", align_corners=False
        )
        found = _boxes(logits[:, 0], whole)
        boxes.index_copy_(0, part.queries, found)
        if shrunk is not None:
            covered = F.interpolate(logits, (size, size), mode="bilinear", align_corners=False) > 0
            parts.append(shrunk.index_select(0, part.images).mul_(covered))
        elif pixels is not None and region == "cropmask":
            masked = pixels.index_select(0, part.images).mul_(logits > 0)
            each = torch.arange(len(found), device=found.device, dtype=found.dtype)
            parts.append(_cut(masked, each, found, size))
    if pixels is not None and region == "crop":
        every = torch.arange(len(pixels), device=pixels.device)
        sources = torch.cat((filled.images, every)).to(boxes.dtype)
        shown = torch.cat((boxes.index_select(0, filled.queries), whole.expand(len(pixels), 4)))
        parts.append(_cut(pixels, sources, shown, size))
    if pixels is None:
        return BatchRegions(boxes=boxes, sub_images=None)
    if not parts:
        parts.append(pixels.new_empty(0, 3, size, size))
    return BatchRegions(boxes=boxes, sub_images=parts[0] if len(parts) == 1 else torch.cat(parts))


def _boxes(logits: Tensor, whole: Tensor) -> Tensor:
    """Do as ``maskmill.model.images.boxes.mask_boxes`` with nothing from the host; logits: (N, H, W), whole: (4,)."""
    first_row, last_row = _extent(logits.amax(dim=2) > 0)
    first_column, last_column = _extent(logits.amax(dim=1) > 0)
    boxes = torch.stack((first_column, first_row, last_column, last_row), dim=1)
    has_area = (last_column > first_column) & (last_row > first_row)
    return torch.where(has_area[:, None], boxes, whole)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return first and last set index of each row of (N, L) bool, float32; the first is beyond the last for none."""
    length = occupied.shape[1]
    places = torch.arange(1, length + 1, device=occupied.device, dtype=torch.float32)
    last = (occupied * places).amax(dim=1) - 1
    first = length - (occupied * places.flip(0)).amax(dim=1)
    return first, last


def _cut(images: Tensor, sources: Tensor, boxes: Tensor, size: int) -> Tensor:
    return roi_align(images, torch.cat((sources[:, None], boxes), dim=1), (size, size), aligned=True)
