"""The maps of several images of one frame at once: the way of GPUs, whole images in a handful of launches.

Legend for shapes: B images, Q queries of each, C classes, H x W pixels of the output, h x w mask cells, R rows of a
band.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.model.naming.instances import MASK_THRESHOLD, OVERLAP_THRESHOLD
from maskmill.model.naming.quality import cell_axes
from maskmill.model.naming.resample import Taps, resize_rows, taps
from maskmill.model.naming.semantic import Frame, row_bands
from maskmill.model.networks.device_policy import DevicePolicy
from maskmill.model.networks.transfers import Transfers

SIZES_KEPT = 32
"""Frames whose sampling points stay on the device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchMaps:
    """The maps of B images that share one frame.

    scores: (B, Q, C) float32. mask_logits: (B, Q, h, w) float32. offsets: (C,), subtracted from the class maps.
    resize_masks_first: as for ``SemanticSum``. policy: how many classes times pixels exist at once.
    transfers: how sampling points get to the device.
    """

    scores: Tensor
    mask_logits: Tensor
    frame: Frame
    offsets: Tensor
    resize_masks_first: bool
    policy: DevicePolicy
    transfers: Transfers

    def chunks(self) -> Iterator[BatchMaps]:
        """Yield parts of as many whole images as the policy lets exist at once; at least one."""
        frame = self.frame
        # Two rows more than the image has, as ``row_bands`` counts.
        at_image = (frame.padded_size[0] + 2) * frame.padded_size[1]
        pixels = max(at_image, math.prod(frame.output_size), math.prod(self.mask_logits.shape[2:]))
        count = max(1, self.policy.map_floats // (max(self.scores.shape[1:]) * pixels))
        if count >= len(self.scores):
            yield self
            return
        for scores, masks in zip(self.scores.split(count), self.mask_logits.split(count), strict=True):
            yield replace(self, scores=scores, mask_logits=masks)

    def classes(self) -> Tensor:
        """Return (B, H, W) int64, the class of highest score of each pixel."""
        bands = list(row_bands(self.frame, self._channels, self.policy, at_output=True))
        if len(bands) == 1:
            return self._class_map(None).argmax(dim=1)
        return torch.cat([self._class_map(band).argmax(dim=1) for band in bands], dim=1)

    @property
    def _channels(self) -> int:
        return len(self.scores) * max(self.scores.shape[1:])

    def _class_map(self, band: tuple[int, int] | None) -> Tensor:
        """Return the (B, C, R, W) calibrated scores of output rows start..stop, None for all."""
        if self.resize_masks_first:
            return self._weighted(self._resized(self._image_masks(band), band).sigmoid_())
        return self._resized(self._weighted(self._image_masks(band).sigmoid_()), band)

    def _weighted(self, masks: Tensor) -> Tensor:
        """Return the sum over the queries (B, C, R, W) of masks (B, Q, R, W) times scores, less the offsets.

        The weights of a resize sum to one, so offsets may be subtracted before it.
        """
        offsets = self.offsets[None, :, None]
        summed = torch.baddbmm(offsets, self.scores.transpose(1, 2), masks.flatten(2), beta=-1)
        return summed.view(*summed.shape[:2], *masks.shape[2:])

    def _image_masks(self, band: tuple[int, int] | None) -> Tensor:
        """Return mask logits (B, Q, r, w) at image size, of the image's rows that the band of the output needs."""
        frame, masks = self.frame, self.mask_logits
        if band is None:
            masks = F.interpolate(masks, frame.padded_size, mode="bilinear", align_corners=False)
            if frame.image_size == frame.padded_size:
                return masks
            return masks[:, :, : frame.image_size[0], : frame.image_size[1]].contiguous()
        span = taps(frame.image_size[0], frame.output_size[0], *band).span
        rows = self._on_device(taps(masks.shape[2], frame.padded_size[0], *span))
        resized = resize_rows(masks.flatten(0, 1), rows, frame.padded_size[1])[:, :, : frame.image_size[1]]
        return resized.unflatten(0, masks.shape[:2]).contiguous()

    def _resized(self, maps: Tensor, band: tuple[int, int] | None) -> Tensor:
        """Return maps (B, K, r, w) of the image's rows that ``band`` needs as (B, K, R, W) of the output."""
        frame = self.frame
        if frame.image_size == frame.output_size:
            return maps
        if band is None:
            return F.interpolate(maps, frame.output_size, mode="bilinear", align_corners=False)
        rows = self._on_device(taps(frame.image_size[0], frame.output_size[0], *band).from_start)
        return resize_rows(maps.flatten(0, 1), rows, frame.output_size[1]).unflatten(0, maps.shape[:2])

    def _on_device(self, points: Taps) -> Taps:
        return Taps(*(self.transfers.upload_array(own.numpy()) for own in (points.low, points.high, points.weight)))

    def class_queries(self, classes: Tensor, takes_part: Tensor | None = None) -> Tensor:
        """Return (B, C) int32, as ``maskmill.model.naming.quality.class_queries`` of each image.

        classes: (B, H, W) int64 class ids. takes_part: (B, Q) bool, queries that may be given; None: all.
        """
        samples = _samples(self.frame, (self.mask_logits.shape[2], self.mask_logits.shape[3]), self.transfers)
        rows, columns = samples.covering
        cells = rows * columns
        masks = self.mask_logits[:, :, :rows, :columns].sigmoid().flatten(2)
        at_centres = classes[:, samples.centre_rows, samples.centre_columns]
        step = max(1, self.policy.map_floats // (len(classes) * cells))
        found = []
        for first in range(0, self.scores.shape[2], step):
            scores = self.scores[:, :, first : first + step]
            block = (first, scores.shape[2])
            counts = self._counts(classes, block, samples, cells)
            present = counts.sum(dim=2) > 0
            centres = _one_hot(at_centres, block, self.scores.shape[2])
            # A class that holds no cell's centre is sampled at its pixels.
            counts = torch.where(centres.sum(dim=2, keepdim=True) > 0, centres, counts)
            given = torch.bmm(masks, counts.transpose(1, 2)) * scores
            if takes_part is not None:
                given = given.masked_fill(~takes_part[:, :, None], -1)
            found.append(torch.where(present, given.argmax(dim=1), -1))
        return (found[0] if len(found) == 1 else torch.cat(found, dim=1)).to(torch.int32)

    def _counts(self, classes: Tensor, block: tuple[int, int], samples: _Samples, cells: int) -> Tensor:
        """Return (B, K, cells) float32, how many pixels of each of the block's K classes lie in each cell."""
        first, size = block
        counts = self.scores.new_zeros(len(classes), (size + 1) * cells)
        one = self.scores.new_ones(1)
        rows = max(1, self.policy.map_floats // (len(classes) * classes.shape[2]))
        for start in range(0, classes.shape[1], rows):
            part = classes[:, start : start + rows]
            place = part if size == self.scores.shape[2] else _in_block(part, first, size)
            at = (place * cells).add_(samples.pixel_rows[start : start + rows, None]).add_(samples.pixel_columns)
            counts.scatter_add_(1, at.flatten(1), one.expand(len(classes), at[0].numel()))
        return counts.view(len(classes), size + 1, cells)[:, :size]

    def query_map(self, takes_part: Tensor | None, is_distractor: Tensor) -> Tensor:
        """Return (B, H, W) int16, as ``maskmill.model.naming.instances.query_map`` of each image.

        Pixels of queries whose best class is a distractor are -1 too. takes_part: (B, Q) bool; None: all.
        is_distractor: (C,) bool. A query's score is that of its best class.
        """
        best = self.scores.max(dim=2)
        scores = best.values
        allowed = scores > 0
        if takes_part is not None:
            allowed = allowed & takes_part
        kept = allowed & self._keeps_its_mask(torch.where(allowed, scores, 0))
        queries = torch.arange(scores.shape[1], device=scores.device, dtype=torch.int16)
        names = torch.where(kept & ~is_distractor[best.indices], queries, -1)
        scores = torch.where(allowed, scores, 0)
        painted = []
        for band in row_bands(self.frame, self._channels, self.policy, at_output=True):
            whole = None if band == (0, self.frame.output_size[0]) else band
            owner, reached = self._owner(self._resized(self._chances(scores, whole), whole), scores)
            painted.append(torch.where(reached, names.gather(1, owner.flatten(1)).view(owner.shape), -1))
        return painted[0] if len(painted) == 1 else torch.cat(painted, dim=1)

    def _keeps_its_mask(self, scores: Tensor) -> Tensor:
        """Return (B, Q) bool, whether a query owns enough of its mask at image size."""
        image = self.frame.image_size
        at_image = replace(self.frame, output_size=image)
        at_image_size = replace(self, frame=at_image)
        owned = torch.zeros_like(scores)
        covered = torch.zeros_like(scores)
        for band in row_bands(at_image, self._channels, self.policy):
            chances = at_image_size._chances(scores, None if band == (0, image[0]) else band)
            owner, reached = self._owner(chances, scores)
            owned.scatter_add_(1, owner.flatten(1), reached.flatten(1).to(owned.dtype))
            covered += (chances >= MASK_THRESHOLD * scores[:, :, None, None]).flatten(2).sum(dim=2)
        return owned >= OVERLAP_THRESHOLD * covered

    def _chances(self, scores: Tensor, band: tuple[int, int] | None) -> Tensor:
        """Return (B, Q, r, w) score times mask probability at image size."""
        return self._image_masks(band).sigmoid_().mul_(scores[:, :, None, None])

    @staticmethod
    def _owner(chances: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, r, w) the query of the largest chance, and whether its mask reaches the threshold there."""
        best, owner = chances.max(dim=1)
        needed = MASK_THRESHOLD * scores.gather(1, owner.flatten(1)).view(owner.shape)
        return owner, best >= needed


@dataclass(frozen=True, kw_only=True, slots=True)
class _Samples:
    """Where cells and pixels of a frame meet, on the device.

    covering: (rows, columns) of cells that cover some image. centre_rows: (rows, 1), centre_columns: (columns,) int64,
    the output pixel at each cell's centre. pixel_rows: (H,) int64, the row of cells of each output row, times their
    columns; pixel_columns: (W,) int64, the column of cells of each output column.
    """

    covering: tuple[int, int]
    centre_rows: Tensor
    centre_columns: Tensor
    pixel_rows: Tensor
    pixel_columns: Tensor


@lru_cache(maxsize=SIZES_KEPT)
def _samples(frame: Frame, cells: tuple[int, int], transfers: Transfers) -> _Samples:
    """Return the sampling points of a frame: computed on the host once for each size, then kept on the device."""
    (centre_rows, cell_rows), (centre_columns, cell_columns) = cell_axes(cells, frame)
    points = (centre_rows, centre_columns, cell_rows * len(centre_columns), cell_columns)
    parts = transfers.upload_array(np.concatenate(points)).split([len(own) for own in points])
    return _Samples(
        covering=(len(centre_rows), len(centre_columns)),
        centre_rows=parts[0][:, None],
        centre_columns=parts[1],
        pixel_rows=parts[2],
        pixel_columns=parts[3],
    )


def _in_block(classes: Tensor, first: int, size: int) -> Tensor:
    """Return class ids counted from ``first``, and ``size`` for those outside the block."""
    place = classes - first
    return torch.where((place >= 0) & (place < size), place, size)


def _one_hot(classes: Tensor, block: tuple[int, int], of: int) -> Tensor:
    """Return (B, K, cells) float32, 1 where the class at a cell's centre (B, rows, columns) is one of the block's K."""
    first, size = block
    flat = classes.flatten(1)
    place = flat if size == of else _in_block(flat, first, size)
    marks = torch.zeros(len(flat), size + 1, flat.shape[1], device=flat.device)
    return marks.scatter_(1, place[:, None], 1.0)[:, :size]
