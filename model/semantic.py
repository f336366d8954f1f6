"""Class scores and masks of the queries -> one label per pixel (paper section 3.4), in bands of rows.

The release makes a C x H x W float map; here only a band of it exists at a time, so a 100-megapixel output with
hundreds of classes needs no more memory than a small one.

Legend for shapes: Q queries, C classes, h x w mask cells, R rows of a band, W its width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from model.resample import Taps, resize_rows, taps

BAND_ELEMENTS = 8 * 2**20
"""Floats of one band's class map (32 MB)."""
BAND_PIXELS = 2**20
"""Output pixels of one band."""

MASK_THRESHOLD = 0.5
OVERLAP_THRESHOLD = 0.8
"""A query that keeps less than this share of its own mask is dropped (MaskFormer's panoptic rule)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The sizes (height, width) a mask goes through: padded input, image without padding, requested output."""

    padded_size: tuple[int, int]
    image_size: tuple[int, int]
    output_size: tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticSum:
    """score(c, pixel) = sum over q of scores[q, c] * sigmoid(mask of q at pixel), minus offsets[c].

    The sum is taken at padded size, cut to the image, and resized bilinearly to the output.

    scores: (Q, C) float32. mask_logits: (Q, h, w) float32 over the padded input.
    offsets: (C,) calibration per class.
    resize_masks_first: bring mask logits to output size before the sum (the release's other order).
    """

    scores: Tensor
    mask_logits: Tensor
    frame: Frame
    offsets: Tensor
    resize_masks_first: bool = False

    def class_map(self) -> Tensor:
        """Return all (C, H, W) float32 scores at output size, calibrated."""
        bands = [self._output_scores(start, stop) for start, stop in self._bands()]
        return torch.cat(bands, dim=1) - self.offsets[:, None, None]

    def label_bands(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, (R, W) int64 class of highest score per pixel), from top to bottom.

        Together they are the argmax of ``class_map``, which is not made for it.
        """
        for start, stop in self._bands():
            yield start, self._labels(start, stop)

    def _labels(self, start: int, stop: int) -> Tensor:
        if self.resize_masks_first:
            return (self._output_scores(start, stop) - self.offsets[:, None, None]).argmax(dim=0)
        rows = self._output_rows(start, stop)
        first, last = rows.span
        masks = image_rows(self.mask_logits, self.frame, first, last).sigmoid()
        # Weights of the resize sum to one, so subtracting before it is subtracting after it.
        scores = torch.addmm(-self.offsets, masks.flatten(1).T, self.scores)
        labels = scores.argmax(dim=1).view(masks.shape[1:])
        if self.frame.output_size == self.frame.image_size:
            return labels
        columns = taps(self.frame.image_size[1], self.frame.output_size[1], labels.device, 0, self.frame.output_size[1])
        return _argmax_of_resized(scores, labels, rows.shifted(-first), columns)

    def _output_scores(self, start: int, stop: int) -> Tensor:
        """Return rows start..stop of the uncalibrated (C, R, W) map at output size."""
        rows = self._output_rows(start, stop)
        first, last = rows.span
        maps = image_rows(self.mask_logits, self.frame, first, last)
        if not self.resize_masks_first:
            maps = self._weighted(maps.sigmoid())
        maps = resize_rows(maps, rows.shifted(-first), self.frame.output_size[1])
        return self._weighted(maps.sigmoid()) if self.resize_masks_first else maps

    def _weighted(self, masks: Tensor) -> Tensor:
        return (self.scores.T @ masks.flatten(1)).view(-1, *masks.shape[1:])

    def _output_rows(self, start: int, stop: int) -> Taps:
        return taps(self.frame.image_size[0], self.frame.output_size[0], self.mask_logits.device, start, stop)

    def _bands(self) -> Iterator[tuple[int, int]]:
        return row_bands(self.frame, max(self.scores.shape))


def image_rows(mask_logits: Tensor, frame: Frame, start: int, stop: int) -> Tensor:
    """Return rows start..stop of (Q, h, w) logits at image size: brought to padded size and cut to the image."""
    rows = taps(mask_logits.shape[1], frame.padded_size[0], mask_logits.device, start, stop)
    return resize_rows(mask_logits, rows, frame.padded_size[1])[:, :, : frame.image_size[1]]


def row_bands(frame: Frame, channels: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of output rows so that ``channels`` maps of a band stay within ``BAND_ELEMENTS``."""
    height, width = frame.output_size
    source_rows = max(1, BAND_ELEMENTS // (channels * max(frame.image_size[1], 1)) - 2)
    rows = min(source_rows * height // frame.image_size[0], BAND_PIXELS // width)
    rows = max(1, rows)
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


def _argmax_of_resized(scores: Tensor, labels: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Return the (R, W) argmax over classes of a map resized, interpolating only where it matters.

    A resized pixel is a weighted mean of four neighbours. Where all four have the same best class, so has the mean;
    only the others, along borders between classes, need their C scores.

    scores: (r * w, C), the map to be resized. labels: (r, w), its argmax.
    """
    width = labels.shape[1]
    upper, lower = labels.index_select(0, rows.low), labels.index_select(0, rows.high)
    resized = upper.index_select(1, columns.low)
    mixed = resized != upper.index_select(1, columns.high)
    for side in (columns.low, columns.high):
        mixed |= resized != lower.index_select(1, side)
    chunk = max(1, BAND_ELEMENTS // (4 * scores.shape[1]))
    at_row, at_column = mixed.nonzero(as_tuple=True)
    for y, x in zip(at_row.split(chunk), at_column.split(chunk), strict=True):
        resized[y, x] = _interpolated(scores, width, rows.at(y), columns.at(x)).argmax(dim=1)
    return resized


def _interpolated(scores: Tensor, width: int, rows: Taps, columns: Taps) -> Tensor:
    """Return (N, C) bilinear values of ``scores`` (r * width, C) at N points."""

    def row(y: Tensor) -> Tensor:
        left = scores.index_select(0, y * width + columns.low)
        return left.lerp_(scores.index_select(0, y * width + columns.high), columns.weight[:, None])

    return row(rows.low).lerp_(row(rows.high), rows.weight[:, None])


def query_map(scores: Tensor, mask_logits: Tensor, frame: Frame) -> Tensor:
    """Return the (H, W) int16 query each pixel belongs to, -1 where none does: MaskFormer's panoptic rule.

    A pixel goes to the query with the largest score * sigmoid(mask), if its mask probability there is at least 0.5.
    Queries left with less than ``OVERLAP_THRESHOLD`` of their own mask are dropped, and their pixels with them.

    scores: (Q,) of the queries; those with score 0 or less take no part. mask_logits: (Q, h, w).
    """
    owners = torch.full(frame.output_size, -1, dtype=torch.int16, device=scores.device)
    taking_part = (scores > 0).nonzero()[:, 0]
    if not len(taking_part):
        return owners
    scores, mask_logits = scores[taking_part], mask_logits[taking_part]
    owned = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    covered = torch.zeros_like(owned)
    for start, stop in row_bands(frame, len(scores)):
        rows = taps(frame.image_size[0], frame.output_size[0], scores.device, start, stop)
        first, last = rows.span
        masks = image_rows(mask_logits, frame, first, last).sigmoid()
        masks = resize_rows(masks, rows.shifted(-first), frame.output_size[1])
        winner = (masks * scores[:, None, None]).argmax(dim=0)
        winner[masks.gather(0, winner[None])[0] < MASK_THRESHOLD] = -1
        owned += torch.bincount(winner[winner >= 0], minlength=len(scores))
        covered += (masks >= MASK_THRESHOLD).sum(dim=(1, 2))
        owners[start:stop] = winner
    kept = torch.where(owned >= OVERLAP_THRESHOLD * covered, taking_part, -1).to(owners.dtype)
    # Index -1, no query, picks the last entry.
    names = torch.cat((kept, kept.new_tensor([-1])))
    for start, stop in row_bands(frame, len(scores)):
        owners[start:stop] = names[owners[start:stop].long()]
    return owners
