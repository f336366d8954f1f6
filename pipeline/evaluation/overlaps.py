"""How many pixels each ground truth segment shares with each predicted one: the table all region figures come from.

One pass over the pixels of an image makes a handful of cells; everything after works on the cells of a whole shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

BLOCK_PIXELS = 2**22
"""Pixels counted at once, so that a large image costs 32 MB beyond its maps."""
LIMIT = 2**16
"""Classes of a protocol, and segments of an image, are fewer than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentMap:
    """Non-overlapping segments of one image.

    index: (P,) uint16, for each pixel in column-major order its segment, S where there is none (ignored in ground
    truth, unlabelled in predictions). classes: (S,) int64 evaluation ids. scores: (S,) float32 in 0..1 where the source
    has them. crowd: (S,) bool, ground truth regions of many things that nobody counted; None for no such region.
    """

    index: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None

    def class_map(self, nothing: int) -> np.ndarray:
        """Return (P,) uint16 class ids, ``nothing`` where there is no segment."""
        if self.classes.size == nothing and np.array_equal(self.classes, np.arange(nothing)):
            return self.index  # a plain label map: segments are classes
        return np.append(self.classes, nothing).astype(np.uint16).take(self.index)


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlaps:
    """Cells of many images. G ground truth segments with pixels, S predicted segments, N cells.

    gt_image, gt_class, gt_crowd: (G,). pred_image, pred_class, pred_score: (S,); scores are NaN where unknown.
    gt, pred: (N,) segment numbers, -1 for ignored and for unlabelled. image, pixels: (N,).
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
        """Return (S,) the class most of a predicted segment's compared pixels have in ground truth, -1 without any.

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
    """Collects images one by one; memory grows with segments, not pixels. block_pixels: counted at once."""

    block_pixels: int = BLOCK_PIXELS
    _cells: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    _predicted: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, truth: SegmentMap, predicted: SegmentMap) -> None:
        """Count one image. Both maps must have the same number of pixels."""
        columns = predicted.classes.size + 1
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
        """Number the segments of all images and return the table."""
        images = len(self._cells)
        gt, gt_class, gt_crowd, pred, pixels = _concatenate(self._cells, 5)
        pred_class, pred_score = _concatenate(self._predicted, 2)
        image = np.repeat(np.arange(images), [cells[0].size for cells in self._cells])
        sizes = np.array([classes.size for classes, _ in self._predicted], dtype=np.int64)
        is_segment = gt_class >= 0
        keys = (image * LIMIT + gt)[is_segment]
        unique, first, place = np.unique(keys, return_index=True, return_inverse=True)
        numbered = np.full(image.size, -1, dtype=np.int64)
        numbered[is_segment] = place
        return Overlaps(
            images=images,
            gt_image=unique // LIMIT,
            gt_class=gt_class[is_segment][first],
            gt_crowd=gt_crowd[is_segment][first].astype(bool),
            pred_image=np.repeat(np.arange(images), sizes),
            pred_class=pred_class,
            pred_score=pred_score,
            image=image,
            gt=numbered,
            pred=np.where(pred >= 0, pred + (np.cumsum(sizes) - sizes)[image], -1),
            pixels=pixels,
        )


def _cells(truth: SegmentMap, predicted: SegmentMap, columns: int, block_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of segments that meet, as segment of truth x columns + predicted segment, and the pixels of each."""
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
    together, place = np.unique(cells, return_inverse=True)
    return together, sum_by(place, pixels, together.size)


def _histogram(keys: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The different values among ``keys`` (0..size - 1), sorted, and how often each occurs."""
    if size > 2**22:  # thousands of segments on both sides: a dense table would outgrow the image
        return np.unique(keys, return_counts=True)
    counts = np.bincount(keys)
    cells = np.flatnonzero(counts)
    return cells, counts[cells]


def _concatenate(rows: Sequence[tuple[np.ndarray, ...]], columns: int) -> list[np.ndarray]:
    if not rows:
        return [np.zeros(0, dtype=np.int64) for _ in range(columns)]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]
