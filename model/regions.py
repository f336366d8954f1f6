"""What CLIP is shown of a segment: one square sub-image per mask (paper section 3.3, figure 3).

Legend for shapes: Q queries, H x W pixels of the padded image, h x w mask cells over the same area, S side of CLIP's
input, U different sub-images (U <= Q). Boxes are XYXY in padded pixels: first column, first row, last column, last row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

REGIONS = ("crop", "mask", "cropmask")
"""crop: the box of the mask. mask: the whole image, black outside the mask. cropmask: the box, black outside."""

MASK_CHUNK = 16
"""Masks brought to padded size at a time; bounds memory, not the result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionImages:
    """Sub-images for CLIP, each kept once however many queries share it.

    images: (U, 3, S, S) float32, CLIP-normalised. image_index: (Q,) int64, the sub-image of each query.
    boxes: (Q, 4) float32.
    """

    images: Tensor
    image_index: Tensor
    boxes: Tensor


def region_images(image: Tensor, mask_logits: Tensor, region: str, size: int) -> RegionImages:
    """Cut the sub-image of every query.

    image: (3, H, W) float32, CLIP-normalised and padded; 0, the padding, is CLIP's mean colour.
    mask_logits: (Q, h, w) over the padded image at any resolution. size: S. ValueError names the regions there are.
    """
    if region not in REGIONS:
        raise ValueError(f"Unknown region {region!r}. Choose from: {', '.join(REGIONS)}")
    if region == "crop":
        boxes = region_boxes(mask_logits, (image.shape[1], image.shape[2]))
        distinct, index = boxes.unique(dim=0, return_inverse=True)
        return RegionImages(images=_crop(image[None], distinct, size), image_index=index, boxes=boxes)
    return _masked_images(image, mask_logits, region, size)


def region_boxes(mask_logits: Tensor, padded_size: tuple[int, int]) -> Tensor:
    """Return the (Q, 4) boxes of masks (Q, h, w) at padded size; for uses that need no sub-images."""
    return torch.cat([mask_boxes(logits) for logits in _at_padded_size(mask_logits, padded_size)])


def mask_boxes(mask_logits: Tensor) -> Tensor:
    """Return (Q, 4) float32 boxes of the positive pixels of (Q, H, W) logits.

    The last column and row are indices of set pixels, not one beyond. A box without area (empty mask, one pixel, one
    row or column) becomes the whole image (0, 0, W, H).
    """
    height, width = mask_logits.shape[-2:]
    covered = mask_logits > 0
    first_row, last_row = _extent(covered.any(dim=2))
    first_column, last_column = _extent(covered.any(dim=1))
    boxes = torch.stack((first_column, first_row, last_column, last_row), dim=1).float()
    has_area = (last_column > first_column) & (last_row > first_row)
    return torch.where(has_area[:, None], boxes, boxes.new_tensor((0, 0, width, height)))


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return first and last set index of each row of (Q, L) bool; (0, 0 or less) for a row with none set."""
    marks = occupied.int()
    last = marks.shape[1] - 1 - marks.flip(1).argmax(dim=1)
    return marks.argmax(dim=1), torch.where(occupied.any(dim=1), last, 0)


def _masked_images(image: Tensor, mask_logits: Tensor, region: str, size: int) -> RegionImages:
    """Cut for ``mask`` and ``cropmask``: every empty mask gives the same all-zero sub-image, which is kept once."""
    whole = F.interpolate(image[None], (size, size), mode="bilinear", align_corners=False)
    boxes, images, blank = [], [], []
    for logits in _at_padded_size(mask_logits, (image.shape[1], image.shape[2])):
        own_boxes = mask_boxes(logits)
        boxes.append(own_boxes)
        if region == "mask":
            # A mask with pixels at padded size may have none left here.
            logits = F.interpolate(logits[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
        covered = logits > 0
        shown = covered.flatten(1).any(dim=1)
        blank.append(~shown)
        if region == "mask":
            images.append(whole * covered[shown, None])
        else:
            images.append(_crop(image * covered[shown, None], own_boxes[shown], size))
    is_blank = torch.cat(blank)
    if is_blank.any():
        images.insert(0, image.new_zeros(1, *image.shape[:1], size, size))
        index = torch.where(is_blank, 0, (~is_blank).cumsum(0))
    else:
        index = torch.arange(len(is_blank), device=image.device)
    return RegionImages(images=torch.cat(images), image_index=index, boxes=torch.cat(boxes))


def _at_padded_size(mask_logits: Tensor, padded_size: tuple[int, int]) -> Iterator[Tensor]:
    for chunk in mask_logits.split(MASK_CHUNK):
        yield F.interpolate(chunk[:, None], padded_size, mode="bilinear", align_corners=False)[:, 0]


def _crop(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Resample each box to (size, size); ``images`` holds one image for all boxes, or one per box."""
    source = torch.arange(len(boxes), device=boxes.device) if len(images) == len(boxes) else boxes.new_zeros(len(boxes))
    rois = torch.cat((source[:, None].to(boxes.dtype), boxes), dim=1)
    return roi_align(images, rois, (size, size), aligned=True)
