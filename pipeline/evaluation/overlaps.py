"""How many pixels each ground truth segment shares with each predicted one: the table all region figures come from.

One pass over the pixels of an image makes a few cells, one for each pair of segments that meet. All figures are then
computed from the cells of a whole shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

BLOCK_PIXELS = 2**22
"""How many pixels are counted at once, so that a large image takes 32 MB beyond its maps."""
LIMIT = 2**16
"""A protocol has fewer classes, and an image fewer segments, than this."""
IOU_UNIT = 2**32
"""IoUs are summed as integers in units of 2^-32, so that sums do not depend on their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentMap:
    """Non-overlapping segments of one image.

    index: (P,) uint16, the segment of each pixel in column-major order; S where there is none, which means ignored in
    ground truth and unlabelled in predictions. classes: (S,) int64 evaluation ids. scores: (S,) float32 in 0..1, None
    where the source has none. crowd: (S,) bool, ground truth regions of many things that nobody counted; None for no
    such region.
    """

    index: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None

    def class_map(self, nothing: int) -> np.ndarray:
        """Return (P,) uint16 class ids, ``nothing`` where there is no segment."""
        if self.classes.size == nothing and np.array_equal(self.classes, np.arange(nothing)):
            return self.index  # in a plain label map the segments are the classes
        return np.append(self.classes, nothing).astype(np.uint16).take(self.index)


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlaps:
    """Cells of many images: G ground truth segments that have pixels, S predicted segments, N cells.

    gt_image, gt_class, gt_crowd: (G,). pred_image, pred_class, pred_score: (S,); scores are NaN where unknown.
    gt, pred: (N,) segment numbers over all images, -1 for ignored and for unlabelled. image, pixels: (N,).
    """

    images: int
    gt_image: np.ndarray
    gt_class: np.ndarray
    gt_crowd: np.ndarray
    pred_image: np.ndarray
    pred_class: np.ndarray
    pred_score: np.ndarray
    image: np.ndarray
    gt: np.ndarray
    pred: np.ndarray
    pixels: np.ndarray

    def class_of_gt(self, nothing: int) -> np.ndarray:
        """Return (N,) the class of each cell's ground truth segment, ``nothing`` for ignored pixels."""
        return np.append(self.gt_class, nothing)[self.gt]

    def class_of_pred(self, nothing: int) -> np.ndarray:
        """Return (N,) the class of each cell's predicted segment, ``nothing`` for unlabelled pixels."""
        return np.append(self.pred_class, nothing)[self.pred]

    def pixels_of_pred(self, where: np.ndarray) -> np.ndarray:
        """Return (S,) the pixels of each predicted segment in the cells chosen by ``where`` (N,) bool."""
        return sum_by(self.pred[where & (self.pred >= 0)], self.pixels[where & (self.pred >= 0)], self.pred_class.size)

    def majority_classes(self) -> np.ndarray:
        """Return (S,) the ground truth class that most compared pixels of each predicted segment have, -1 without any.

        The lowest class id wins a tie.
        """
        chosen = (self.gt >= 0) & (self.pred >= 0)
        pred, gt_class = self.pred[chosen], self.class_of_gt(-1)[chosen]
        keys, place = np.unique(pred * LIMIT + gt_class, return_inverse=True)
        totals = sum_by(place, self.pixels[chosen], keys.size)
        segment, class_id = np.divmod(keys, LIMIT)
        order = np.lexsort((class_id, -totals, segment))
        segments, first = np.unique(segment[order], return_index=True)
        majority = np.full(self.pred_class.size, -1, dtype=np.int64)
        majority[segments] = class_id[order][first]
        return majority


def sum_by(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Return (groups,) int64 sums of ``values`` with the same ``group``; exact, unlike bincount's float weights."""
    sums = np.zeros(groups, dtype=np.int64)
    np.add.at(sums, group, values)
    return sums


@dataclass(slots=True)
class OverlapsBuilder:
    """Collects images one by one; memory grows with segments, not pixels. block_pixels: how many to count at once."""

    block_pixels: int = BLOCK_PIXELS
    _cells: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    _predicted: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, truth: SegmentMap, predicted: SegmentMap) -> None:
        """Count one image. Both maps must have the same number of pixels."""
        columns = predicted.classes.size + 1  # the last one is "unlabelled"
        cells, pixels = _cells(truth, predicted, columns, self.block_pixels)
        gt, pred = np.divmod(cells, columns)
        gt_class = np.append(truth.classes, -1)[gt]
        crowd = np.zeros(gt.size, dtype=bool) if truth.crowd is None else np.append(truth.crowd, False)[gt]
        self._cells.append((gt, gt_class, crowd, np.where(pred == columns - 1, -1, pred), pixels))
        scores = predicted.scores
        self._predicted.append(
            (predicted.classes, np.full(columns - 1, np.nan, np.float32) if scores is None else scores)
        )

    def finish(self) -> Overlaps:
        """Number the segments of all images through and return the table."""
        images = np.arange(len(self._cells))
        image = np.repeat(images, [cells[0].size for cells in self._cells])
        gt, gt_class, gt_crowd, pred, pixels = _concatenate(self._cells, 5)

        # All predicted segments are numbered, image after image.
        pred_class, pred_score = _concatenate(self._predicted, 2)
        segments_per_image = np.array([classes.size for classes, _ in self._predicted], dtype=np.int64)
        first_of_image = np.cumsum(segments_per_image) - segments_per_image

        # Of ground truth, only the segments that occur in a cell are numbered: they alone have pixels. Image and
        # segment are packed into one integer, so that sorting the integers sorts by image, then by segment.
        with_gt = np.flatnonzero(gt_class >= 0)
        packed, first_cell, number = np.unique(
            image[with_gt] * LIMIT + gt[with_gt], return_index=True, return_inverse=True
        )
        gt_number = np.full(image.size, -1, dtype=np.int64)
        gt_number[with_gt] = number
        return Overlaps(
            images=images.size,
            gt_image=packed // LIMIT,
            gt_class=gt_class[with_gt][first_cell],
            gt_crowd=gt_crowd[with_gt][first_cell].astype(bool),
            pred_image=np.repeat(images, segments_per_image),
            pred_class=pred_class,
            pred_score=pred_score,
            image=image,
            gt=gt_number,
            pred=np.where(pred >= 0, pred + first_of_image[image], -1),
            pixels=pixels,
        )


def _cells(truth: SegmentMap, predicted: SegmentMap, columns: int, block_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells of one image as ground truth segment x columns + predicted segment, and the pixels of each."""
    blocks = []
    for start in range(0, truth.index.size, block_pixels):
        block = slice(start, start + block_pixels)
        key = truth.index[block].astype(np.intp)
        key *= columns
        key += predicted.index[block]
        blocks.append(_histogram(key, (truth.classes.size + 1) * columns))
    if len(blocks) == 1:
        return blocks[0]
    cells, pixels = _concatenate(blocks, 2)
    distinct, place = np.unique(cells, return_inverse=True)
    return distinct, sum_by(place, pixels, distinct.size)


def _histogram(keys: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values among ``keys`` (0..size - 1), sorted, and how often each occurs."""
    if size > 2**22:  # with thousands of segments on both sides a dense table would be larger than the image
        return np.unique(keys, return_counts=True)
    counts = np.bincount(keys)
    cells = np.flatnonzero(counts)
    return cells, counts[cells]


def _concatenate(rows: Sequence[tuple[np.ndarray, ...]], columns: int) -> list[np.ndarray]:
    if not rows:
        return [np.zeros(0, dtype=np.int64) for _ in range(columns)]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]
