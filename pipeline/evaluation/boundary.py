"""Boundary F-measure: how well the borders between classes are placed (Csurka et al., BMVC 2013)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

TOLERANCE = 0.0075
"""The share of the image diagonal within which a border pixel counts as found (Csurka et al.)."""

COLUMNS = ("pred_found", "pred", "gt_found", "gt")
"""Border pixels: those of the prediction that are near ground truth's, all of the prediction's, those of ground truth
that are near the prediction's, all of ground truth's."""

STRIP_PIXELS = 2**24
"""How many pixels are counted at once, in a strip of whole rows, so that large images need little beyond their maps."""
_STEPS_AT_ONCE = 32
"""How many offsets are tried per numpy call. More take fewer calls, but more memory, and the search stops later. Of 4,
8, 16 and 32 this was fastest for radius 1 and 5."""
_STEPS_TRIED = 257
"""How many offsets are tried at all: those up to a radius of nine pixels. For a larger radius a tree finds the rest."""


def boundary_counts(
    truth: np.ndarray, predicted: np.ndarray, classes: int, radius: int, strip_pixels: int = STRIP_PIXELS
) -> np.ndarray:
    """Count border pixels of one image: (classes, 4) int64 in the order of COLUMNS.

    truth, predicted: (H, W) uint16 class ids; ``classes`` means ignored in ``truth`` and unlabelled in ``predicted``.
    A pixel is on the border of its class if one of its four neighbours is of another class; a border with ignored
    pixels does not count. A border pixel is found if a border pixel of the same class in the other map lies within
    ``radius`` pixels (Euclidean).
    """
    height, width = truth.shape
    rows = max(1, strip_pixels // width)
    counts = np.zeros((classes, len(COLUMNS)), dtype=np.int64)
    for top in range(0, height, rows):
        # Take one row more than the radius: whether the outermost row is on a border depends on the row beyond it.
        first, last = max(0, top - radius - 1), min(height, top + rows + radius + 1)
        inner = slice(top - first, min(height, top + rows) - first)
        counts += _strip_counts(truth[first:last], predicted[first:last], classes, radius, inner)
    return counts


def _strip_counts(truth: np.ndarray, predicted: np.ndarray, classes: int, radius: int, rows: slice) -> np.ndarray:
    """Count the border pixels in ``rows`` of a part of the image, in the form of :func:`boundary_counts`.

    The other rows of the part only serve as the surroundings in which border pixels are looked for.
    """
    ignored = truth == classes
    grid = _Grid(row_length=truth.shape[1] + 2 * radius, radius=radius, nothing=np.uint16(classes + 1))
    gt_borders = _padded_borders(truth, _is_border(truth, ignored) & ~ignored, grid)
    is_labelled = ~ignored & (predicted != classes)
    pred_borders = _padded_borders(predicted, _is_border(predicted, ignored) & is_labelled, grid)
    gt_at, pred_at = _border_places(gt_borders, rows, grid), _border_places(pred_borders, rows, grid)
    gt_class, pred_class = gt_borders[gt_at], pred_borders[pred_at]
    pred_found = pred_class[_is_near(pred_class, pred_at, gt_borders, grid)]
    gt_found = gt_class[_is_near(gt_class, gt_at, pred_borders, grid)]
    columns = (pred_found, pred_class, gt_found, gt_class)
    return np.stack([np.bincount(column, minlength=classes) for column in columns], axis=1)


def tolerance_radius(height: int, width: int, tolerance: float) -> int:
    """The tolerance in whole pixels, at least one."""
    return max(1, round(tolerance * float(np.hypot(height, width))))


def f_measure(counts: np.ndarray) -> np.ndarray:
    """Return F = 2PR / (P + R) for each row of ``counts`` (..., 4).

    F is NaN where neither side has a border, and 0 where only one side has one.
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
    """The layout of flat border maps. row_length: pixels of a padded row. radius: width of the padding, the tolerance.

    nothing: the value where there is no border.
    """

    row_length: int
    radius: int
    nothing: np.uint16


def _padded_borders(labels: np.ndarray, is_border: np.ndarray, grid: _Grid) -> np.ndarray:
    """Return a flat map of the border pixels' classes, ``grid.nothing`` elsewhere and in the padding on all sides.

    In this map a step to a neighbour is the same offset everywhere, and no step up to the radius leaves the map.
    labels, is_border: (H, W).
    """
    return np.pad(np.where(is_border, labels, grid.nothing), grid.radius, constant_values=grid.nothing).ravel()


def _border_places(borders: np.ndarray, rows: slice, grid: _Grid) -> np.ndarray:
    """Return the flat positions of the border pixels in some rows of the image, counted without the padding."""
    begin = (grid.radius + rows.start) * grid.row_length
    end = (grid.radius + rows.stop) * grid.row_length
    return np.flatnonzero(borders[begin:end] != grid.nothing) + begin


def _is_near(classes: np.ndarray, at: np.ndarray, other: np.ndarray, grid: _Grid) -> np.ndarray:
    """Return whether ``other`` has a border pixel of the same class within the radius of each of N border pixels.

    classes: (N,) of the pixels. at: (N,) their flat positions. other: the flat border map of the other side.
    """
    steps = _disc(grid.radius, grid.row_length)
    near = other[at] == classes
    missing = np.flatnonzero(~near)
    # The nearest offsets come first, so that few pixels are left for the far ones.
    for start in range(1, min(steps.size, _STEPS_TRIED), _STEPS_AT_ONCE):
        if not missing.size:
            break
        places = at[missing, None] + steps[start : start + _STEPS_AT_ONCE]
        hit = (other[places] == classes[missing, None]).any(axis=1)
        near[missing[hit]] = True
        missing = missing[~hit]
    if missing.size and steps.size > _STEPS_TRIED:
        near[missing] = _is_near_by_tree(classes[missing], at[missing], other, grid)
    return near


def _is_near_by_tree(classes: np.ndarray, at: np.ndarray, other: np.ndarray, grid: _Grid) -> np.ndarray:
    """Do the same as :func:`_is_near` by a tree per class, whose cost hardly grows with the radius."""
    near = np.zeros(classes.shape, dtype=bool)
    other_at = np.flatnonzero(other != grid.nothing)
    other_class = other[other_at]
    for class_id in np.unique(classes):
        targets, chosen = other_at[other_class == class_id], np.flatnonzero(classes == class_id)
        if targets.size:
            tree = cKDTree(np.stack(np.divmod(targets, grid.row_length), axis=1))
            points = np.stack(np.divmod(at[chosen], grid.row_length), axis=1)
            # Squared distances are whole numbers, so no distance lies between the radius and slightly more.
            distance, _ = tree.query(points, distance_upper_bound=grid.radius + 1e-6)
            near[chosen] = np.isfinite(distance)
    return near


@lru_cache(maxsize=64)
def _disc(radius: int, row_length: int) -> np.ndarray:
    """Return the flat offsets of all pixels within ``radius``, nearest first; the first one is 0."""
    dy, dx = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    distance = dy**2 + dx**2
    order = np.argsort(distance.ravel(), kind="stable")
    inside = order[: int((distance <= radius**2).sum())]
    return (dy * row_length + dx).ravel()[inside]
