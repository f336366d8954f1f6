"""Class scores and masks of the queries -> one label per pixel (paper section 3.4), in bands of rows.

The release makes a C x H x W float map; here only a band of it exists at a time, so a 100-megapixel output with
hundreds of classes needs no more memory than a small one.

Legend for shapes: Q queries, C classes, h x w mask cells, R rows of a band, W its width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.model.naming.resample import Taps, resize_rows, taps
from maskmill.model.networks.device_policy import CPU_POLICY, DevicePolicy

NO_CLASS = 1e30
"""Offset of the columns added to fill a block: none of them is ever the best."""


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
    policy: how large a band may be.
    """

    scores: Tensor
    mask_logits: Tensor
    frame: Frame
    offsets: Tensor
    resize_masks_first: bool = False
    policy: DevicePolicy = CPU_POLICY

    def class_map(self) -> Tensor:
        """Return all (C, H, W) float32 scores at output size, calibrated."""
        bands = [self._output_scores(start, stop) for start, stop in self._bands(at_output=True)]
        return torch.cat(bands, dim=1) - self.offsets[:, None, None]

    def label_bands(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, (R, W) int64 class of highest score per pixel), from top to bottom.

        Together they are the argmax of ``class_map``, which is not made for it.
        """
        for start, stop in self._bands(at_output=self.resize_masks_first):
            yield start, self._labels(start, stop)

    def _labels(self, start: int, stop: int) -> Tensor:
        if self.resize_masks_first:
            return (self._output_scores(start, stop) - self.offsets[:, None, None]).argmax(dim=0)
        rows = output_rows(self.frame, start, stop)
        masks = image_rows(self.mask_logits, self.frame, *rows.span).sigmoid_()
        added = -self.scores.shape[1] % self.policy.column_block
        scores = masks.flatten(1).T @ F.pad(self.scores, (0, added))
        # Weights of the resize sum to one, so subtracting before it is subtracting after it.
        scores -= F.pad(self.offsets, (0, added), value=NO_CLASS)
        return choose_resized(scores, _best, self.frame, rows, self.policy)

    def _output_scores(self, start: int, stop: int) -> Tensor:
        """Return rows start..stop of the uncalibrated (C, R, W) map at output size."""
        rows = output_rows(self.frame, start, stop)
        maps = image_rows(self.mask_logits, self.frame, *rows.span)
        if not self.resize_masks_first:
            maps = self._weighted(maps.sigmoid())
        maps = resize_rows(maps, rows.from_start.to(maps.device), self.frame.output_size[1])
        return self._weighted(maps.sigmoid()) if self.resize_masks_first else maps

    def _weighted(self, masks: Tensor) -> Tensor:
        return (self.scores.T @ masks.flatten(1)).view(-1, *masks.shape[1:])

    def _bands(self, *, at_output: bool) -> Iterator[tuple[int, int]]:
        return row_bands(self.frame, max(self.scores.shape), self.policy, at_output=at_output)


def image_rows(mask_logits: Tensor, frame: Frame, start: int, stop: int) -> Tensor:
    """Return rows start..stop of (Q, h, w) logits at image size: brought to padded size and cut to the image."""
    rows = taps(mask_logits.shape[1], frame.padded_size[0], start, stop).to(mask_logits.device)
    return resize_rows(mask_logits, rows, frame.padded_size[1])[:, :, : frame.image_size[1]]


def output_rows(frame: Frame, start: int, stop: int) -> Taps:
    """Return on the host where output rows start..stop lie in the image."""
    return taps(frame.image_size[0], frame.output_size[0], start, stop)


def row_bands(
    frame: Frame, channels: int, policy: DevicePolicy = CPU_POLICY, *, at_output: bool = False
) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of output rows so that ``channels`` maps of a band stay within the sizes of ``policy``.

    The maps are of the image's size, or with ``at_output`` of the output's.
    """
    height, width = frame.output_size
    a_row = channels * frame.image_size[1]
    floats = min(policy.map_floats, max(policy.cached_floats, policy.cached_rows * a_row))
    image_rows_at_once = max(1, floats // a_row - 2)
    rows = min(image_rows_at_once * height // frame.image_size[0], policy.band_pixels // width)
    if at_output:
        rows = min(rows, policy.map_floats // (channels * width))
    rows = max(1, rows)
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


def _best(values: Tensor) -> Tensor:
    """As ``values.argmax(dim=1)``, for which NumPy takes a third of the time on CPUs."""
    if values.device.type == "cpu":
        return torch.from_numpy(values.numpy().argmax(axis=1))
    return values.argmax(dim=1)


def choose_resized(
    values: Tensor,
    choose: Callable[[Tensor], Tensor],
    frame: Frame,
    rows: Taps,
    policy: DevicePolicy = CPU_POLICY,
) -> Tensor:
    """Return the (R, W) choices ``choose`` makes on ``values`` resized to the output, without resizing them all.

    The picture: every output pixel lies inside a square of four image pixels, and its K values are a weighted mean of
    theirs. First each image pixel makes its choice. Where the four corners of a square have chosen alike, their mean
    chooses the same, so the output pixel takes over that choice. Where they differ, the square lies across a border
    between two choices; only there are the K values interpolated and ``choose`` asked about the mean. That is exact if
    the values that lead to one choice form a convex set, as they do for an argmax.

    values: (r * w, K), K values of each pixel of the r image rows that ``rows`` spans. choose: (N, K) -> (N,) int64.
    """
    width = frame.image_size[1]
    choices = choose(values).view(-1, width)
    if frame.output_size == frame.image_size:
        return choices
    rows = rows.from_start.to(values.device)
    columns = taps(width, frame.output_size[1], 0, frame.output_size[1]).to(values.device)
    upper, lower = choices.index_select(0, rows.low), choices.index_select(0, rows.high)
    # The choice of the upper left corner is compared with those of the upper right and the two lower corners.
    resized = upper.index_select(1, columns.low)
    mixed = resized != upper.index_select(1, columns.high)
    for side in (columns.low, columns.high):
        mixed |= resized != lower.index_select(1, side)
    chunk = max(1, policy.map_floats // (4 * values.shape[1]))
    at_row, at_column = mixed.nonzero(as_tuple=True)
    for y, x in zip(at_row.split(chunk), at_column.split(chunk), strict=True):
        resized[y, x] = choose(_interpolated(values, width, rows.at(y), columns.at(x)))
    return resized


def _interpolated(values: Tensor, width: int, rows: Taps, columns: Taps) -> Tensor:
    """Return (N, K) bilinear values at N points of ``values`` (r * width, K)."""

    def row(y: Tensor) -> Tensor:
        left = values.index_select(0, y * width + columns.low)
        return left.lerp_(values.index_select(0, y * width + columns.high), columns.weight[:, None])

    return row(rows.low).lerp_(row(rows.high), rows.weight[:, None])
