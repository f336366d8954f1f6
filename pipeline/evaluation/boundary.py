"""Boundary F-measure: how well the borders of classes lie, whatever the areas (Csurka et al., BMVC 2013)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

TOLERANCE = 0.0075
"""Share of the image diagonal within which a border pixel counts as found (Csurka et al.)."""

COLUMNS = ("pred_found", "pred", "gt_found", "gt")
"""Border pixels of the prediction near ground truth's, all of them, and the same the other way round."""

STRIP_PIXELS = 2**24
"""Large images are counted in strips of rows of so many pixels, so that memory is bounded by the maps themselves."""
_STEPS_AT_ONCE = 32
"""Fewer calls against more memory and less stopping early; of 4, 8, 16 and 32 fastest for radius 1 and 5."""
_STEPS_TRIED = 257
"""Offsets tried one by one, up to a radius of nine pixels; what is farther in a large image is looked up in a tree."""


def boundary_counts(
    truth: np.ndarray, predicted: np.ndarray, classes: int, radius: int, strip_pixels: int = STRIP_PIXELS
) -> np.ndarray:
    """Count border pixels of one image: (classes, 4) int64 in the order of COLUMNS.

    truth, predicted: (H, W) uint16 class ids; ``classes`` means ignored in ``truth`` and unlabelled in ``predicted``.
    A pixel is on the border of its class if one of its four neighbours is of another class; borders with ignored
    pixels are none. Found: a border pixel of the same class lies within ``radius`` pixels (Euclidean).
    """
    height, width = truth.shape
    rows = max(1, strip_pixels // width)
    counts = np.zeros((classes, len(COLUMNS)), dtype=np.int64)
    for top in range(0, height, rows):
        # One row more than the radius, for the last border that can be near needs its neighbour to be one.
        first, last = max(0, top - radius - 1), min(height, top + rows + radius + 1)
        inner = slice(top - first, min(height, top + rows) - first)
        counts += _strip_counts(truth[first:last], predicted[first:last], classes, radius, inner)
    return counts


def _strip_counts(truth: np.ndarray, predicted: np.ndarray, classes: int, radius: int, rows: slice) -> np.ndarray:
    """Count the border pixels in some rows of a part of the image, as :func:`boundary_counts`."""
    height, width = truth.shape
    ignored = truth == classes
    compared = ~ignored
    nothing = np.uint16(classes + 1)
    padded = []
    for labels, unlabelled in ((truth, nothing), (predicted, np.uint16(classes))):
        border = np.full((height + 2 * radius, width + 2 * radius), nothing, dtype=np.uint16)
        inside = border[radius : radius + height, radius : radius + width]
        np.copyto(inside, labels, where=_is_border(labels, ignored) & (labels != unlabelled) & compared)
        padded.append(border.ravel())
    row_length = width + 2 * radius
    begin = (radius + rows.start) * row_length
    end = (radius + rows.stop) * row_length
    gt_at, pred_at = (np.flatnonzero(border[begin:end] != nothing) + begin for border in padded)
    steps, grid = _disc(radius, row_length), _Grid(row_length, radius, nothing)
    gt_class, pred_class = padded[0][gt_at], padded[1][pred_at]
    counts = np.zeros((classes, len(COLUMNS)), dtype=np.int64)
    for column, found in (
        (0, pred_class[_is_near(pred_class, pred_at, padded[0], steps, grid)]),
        (1, pred_class),
        (2, gt_class[_is_near(gt_class, gt_at, padded[1], steps, grid)]),
        (3, gt_class),
    ):
        counts[:, column] = np.bincount(found, minlength=classes)
    return counts


def tolerance_radius(height: int, width: int, tolerance: float) -> int:
    """The tolerance in whole pixels, at least one."""
    return max(1, round(tolerance * float(np.hypot(height, width))))


def f_measure(counts: np.ndarray) -> np.ndarray:
    """F = 2PR / (P + R) for each row of ``counts`` (..., 4); NaN where neither side has a border.

    Zero where only one side has.
    """
    pred_found, pred, gt_found, gt = (counts[..., i].astype(np.float64) for i in range(len(COLUMNS)))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(pred > 0, pred_found / pred, 0.0)
        recall = np.where(gt > 0, gt_found / gt, 0.0)
        f = np.where(precision + recall > 0, 2 * precision * recall / (precision + recall), 0.0)
    return np.where(pred + gt > 0, f, np.nan)


def _is_border(labels: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    border = np.zeros(labels.shape, dtype=bool)
    any_ignored = bool(ignored.any())
    for here, there in (
        (np.s_[1:, :], np.s_[:-1, :]),
        (np.s_[:, 1:], np.s_[:, :-1]),
    ):
        differs = labels[here] != labels[there]
        if any_ignored:
            differs &= ~(ignored[here] | ignored[there])
        border[here] |= differs
        border[there] |= differs
    return border


class _Grid(NamedTuple):
    """The padded maps: pixels in a row, the tolerance in pixels, and the value where there is no border."""

    row_length: int
    radius: int
    nothing: np.uint16


def _is_near(own: np.ndarray, at: np.ndarray, other: np.ndarray, steps: np.ndarray, grid: _Grid) -> np.ndarray:
    """For pixels of class ``own`` at flat positions ``at``: whether ``other`` has that class within the steps."""
    near = other[at] == own
    missing = np.flatnonzero(~near)
    for start in range(
        1, min(steps.size, _STEPS_TRIED), _STEPS_AT_ONCE
    ):  # nearest first, so that few are left for the far ones
        if not missing.size:
            break
        places = at[missing, None] + steps[start : start + _STEPS_AT_ONCE]
        hit = (other[places] == own[missing, None]).any(axis=1)
        near[missing[hit]] = True
        missing = missing[~hit]
    if missing.size and steps.size > _STEPS_TRIED:
        near[missing] = _is_within(own[missing], at[missing], other, grid)
    return near


def _is_within(own: np.ndarray, at: np.ndarray, other: np.ndarray, grid: _Grid) -> np.ndarray:
    """The same by trees of the border pixels of each class, whose cost hardly grows with the radius."""
    near = np.zeros(own.shape, dtype=bool)
    other_at = np.flatnonzero(other != grid.nothing)
    other_class = other[other_at]
    for class_id in np.unique(own):
        targets, chosen = other_at[other_class == class_id], np.flatnonzero(own == class_id)
        if targets.size:
            tree = cKDTree(np.stack(np.divmod(targets, grid.row_length), axis=1))
            points = np.stack(np.divmod(at[chosen], grid.row_length), axis=1)
            # Squares of distances are whole, so that none lies between the radius and a little more.
            distance, _ = tree.query(points, distance_upper_bound=grid.radius + 1e-6)
            near[chosen] = np.isfinite(distance)
    return near


@lru_cache(maxsize=64)
def _disc(radius: int, row_length: int) -> np.ndarray:
    """Flat offsets of all pixels within ``radius``, nearest first."""
    dy, dx = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    distance = dy**2 + dx**2
    order = np.argsort(distance.ravel(), kind="stable")
    inside = order[: int((distance <= radius**2).sum())]
    return (dy * row_length + dx).ravel()[inside]
