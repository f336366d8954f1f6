"""What CLIP is shown of a segment: one square sub-image per mask (paper section 3.3, figure 3).

Legend for shapes: Q queries, H x W pixels of the padded image, h x w mask cells over the same area, S side of CLIP's
input, U different sub-images (U <= Q). Boxes are XYXY in padded pixels: first column, first row, last column, last row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from maskmill.model.images.boxes import mask_boxes
from maskmill.model.naming.resample import Taps, resize_rows
from maskmill.model.naming.settings import SinglePassRegion, SubImageRegion
from maskmill.model.networks.device_policy import DevicePolicy, policy_for

SUB_IMAGE_REGIONS: tuple[str, ...] = get_args(SubImageRegion)
SINGLE_PASS_REGIONS: tuple[str, ...] = get_args(SinglePassRegion)


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionImages:
    """Sub-images for CLIP, each kept once however many queries share it.

    images: (U, 3, S, S) float32, CLIP-normalised. image_index: (Q,) int64, the sub-image of each query.
    boxes: (Q, 4) float32. first_is_blank: images[0] is all zeros, what every empty mask shows.
    """

    images: Tensor
    image_index: Tensor
    boxes: Tensor
    first_is_blank: bool = False

    def without_blank(self) -> tuple[Tensor, Tensor]:
        """Return the sub-images that show something, and the index of each query among them, -1 for empty masks."""
        if self.first_is_blank:
            return self.images[1:], self.image_index - 1
        return self.images, self.image_index


def region_images(
    image: Tensor, mask_logits: Tensor, region: str, size: int, policy: DevicePolicy | None = None
) -> RegionImages:
    """Cut the sub-image of every query.

    image: (3, H, W) float32, CLIP-normalised and padded; 0, the padding, is CLIP's mean colour.
    mask_logits: (Q, h, w) over the padded image at any resolution. size: S. policy: how many masks are brought to
    padded size at a time, and with which kernel boxes are cut; None: that of the image's device.
    ValueError names the regions there are.
    """
    policy = policy or policy_for(image.device)
    if region not in SUB_IMAGE_REGIONS:
        raise ValueError(f"Unknown kind of sub-image {region!r}. Choose from: {', '.join(SUB_IMAGE_REGIONS)}")
    if region == "crop":
        boxes = region_boxes(mask_logits, (image.shape[1], image.shape[2]), policy)
        distinct, index = boxes.unique(dim=0, return_inverse=True)
        return RegionImages(images=_crop(image[None], distinct, size), image_index=index, boxes=boxes)
    return _masked_images(image, mask_logits, region, size, policy)


def region_boxes(mask_logits: Tensor, padded_size: tuple[int, int], policy: DevicePolicy | None = None) -> Tensor:
    """Return the (Q, 4) boxes of masks (Q, h, w) at padded size; for uses that need no sub-images."""
    policy = policy or policy_for(mask_logits.device)
    boxes = _whole_image_boxes(len(mask_logits), padded_size, mask_logits.device)
    for queries, logits in _at_padded_size(mask_logits, padded_size, policy):
        boxes[queries] = mask_boxes(logits)
    return boxes


def _masked_images(image: Tensor, mask_logits: Tensor, region: str, size: int, policy: DevicePolicy) -> RegionImages:
    """Cut for ``mask`` and ``cropmask``: every empty mask gives the same all-zero sub-image, which is kept once."""
    padded_size = (image.shape[1], image.shape[2])
    index = torch.zeros(len(mask_logits), dtype=torch.int64, device=image.device)
    boxes = _whole_image_boxes(len(mask_logits), padded_size, image.device)
    images = [image.new_zeros(1, 3, size, size)]
    shrunk = (
        F.interpolate(image[None], (size, size), mode="bilinear", align_corners=False) if region == "mask" else None
    )
    for queries, logits in _at_padded_size(mask_logits, padded_size, policy):
        own_boxes, covered = mask_boxes(logits), logits > 0
        boxes[queries] = own_boxes
        if shrunk is not None:
            # A mask with pixels at padded size may have none left here.
            covered = F.interpolate(logits[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0] > 0
        shown = covered.flatten(1).any(dim=1) if shrunk is not None else logits.flatten(1).amax(dim=1) > 0
        queries, covered = queries[shown], covered[shown]
        index[queries] = torch.arange(len(queries), device=image.device) + sum(map(len, images))
        if shrunk is not None:
            images.append(shrunk * covered[:, None])
        else:
            crop = _crop_by_kernel if policy.batched else _crop_by_axis
            images.append(crop(image, covered, own_boxes[shown], size))
    if bool((index > 0).all()):
        return RegionImages(images=torch.cat(images[1:]), image_index=index - 1, boxes=boxes)
    return RegionImages(images=torch.cat(images), image_index=index, boxes=boxes, first_is_blank=True)


def _whole_image_boxes(count: int, padded_size: tuple[int, int], device: torch.device) -> Tensor:
    return torch.tensor((0, 0, padded_size[1], padded_size[0]), dtype=torch.float32, device=device).repeat(count, 1)


def _at_padded_size(
    mask_logits: Tensor, padded_size: tuple[int, int], policy: DevicePolicy
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (indices, logits at padded size) of the masks that have any pixel, a chunk at a time.

    Interpolated values lie between those they are made from: a mask without a positive cell has no positive pixel.
    """
    filled = (mask_logits.flatten(1).amax(dim=1) > 0).nonzero()[:, 0]
    for queries in filled.split(max(1, policy.mask_pixels // math.prod(padded_size))):
        logits = F.interpolate(mask_logits[queries][:, None], padded_size, mode="bilinear", align_corners=False)
        yield queries, logits[:, 0]


def _crop_by_kernel(image: Tensor, covered: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Return (N, 3, size, size): the boxes (N, 4) of the image, black outside the masks (N, H, W)."""
    each = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
    return _roi_align(image * covered[:, None], each, boxes, size)


def _crop_by_axis(image: Tensor, covered: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Do as ``_crop_by_kernel``, box by box and one axis at a time."""
    crops = image.new_empty(len(boxes), image.shape[0], size, size)
    for crop, own, box in zip(crops, covered, boxes.tolist(), strict=True):
        left, top, right, bottom = (int(edge) for edge in box)
        above, before = max(top - 1, 0), max(left - 1, 0)
        window = (slice(above, bottom + 1), slice(before, right + 1))
        rows = _pooled(image[:, *window] * own[window], above, (top, bottom), image.shape[1], size)
        columns = _pooled(rows.transpose(1, 2).contiguous(), before, (left, right), image.shape[2], size)
        crop[:] = columns.transpose(1, 2)
    return crops


def _pooled(maps: Tensor, offset: int, edges: tuple[int, int], length: int, size: int) -> Tensor:
    """Return (C, size, W): what roi_align (aligned, adaptive sampling) does along the rows of ``maps`` (C, h, W).

    The maps are the rows from ``offset`` on of images of ``length`` rows; edges are the first and last of the box. One
    axis at a time, bilinear samples come from whole rows; torchvision's kernel, which visits the four pixels of each
    sample, takes three to four times as long on a CPU.
    """
    first, last = edges
    samples = max(1, math.ceil((last - first) / size))
    points = torch.arange(size * samples, dtype=torch.float64) + 0.5
    points = (first - 0.5 + points * ((last - first) / (size * samples))).clamp(0, length - 1)
    low = points.long()
    high = (low + 1).clamp(max=length - 1)
    taps = Taps(low - offset, (high - offset).clamp(max=maps.shape[1] - 1), (points - low).to(maps.dtype))
    return resize_rows(maps, taps, maps.shape[2]).unflatten(1, (size, samples)).mean(dim=2)


def _crop(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Resample each box of one image (1, 3, H, W) to (size, size)."""
    return _roi_align(image, boxes.new_zeros(len(boxes)), boxes, size)


def _roi_align(images: Tensor, source: Tensor, boxes: Tensor, size: int) -> Tensor:
    return roi_align(images, torch.cat((source[:, None], boxes), dim=1), (size, size), aligned=True)
