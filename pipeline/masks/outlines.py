"""Outlines of masks along the edges of their pixels, so that a polygon has exactly the area of its mask.

Tracers in image libraries go through pixel centres or cut corners, which loses or adds up to half a pixel all around.
Coordinates are (x, y) with the origin at the image's upper left corner; pixel (row, column) covers
[column, column + 1] x [row, row + 1].
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree


def trace_rings(mask: np.ndarray) -> list[np.ndarray]:
    """Trace the outlines of a mask (H, W) of bool: closed rings as (N, 2) int64 corners, the first not repeated.

    Outer rings run clockwise on the screen (positive :func:`ring_area`), holes the other way round. Pixels that touch
    at a corner only belong to different rings.

    Corners are the grid points at which an outline turns. Every corner ends one horizontal and one vertical edge, so
    once the edges are known by their two corners each, a ring is found by taking a horizontal edge, a vertical one, a
    horizontal one, and so on, until it closes.
    """
    padded = np.pad(mask.astype(bool), 1)
    north_west, north_east = padded[:-1, :-1], padded[:-1, 1:]
    south_west, south_east = padded[1:, :-1], padded[1:, 1:]
    count = north_west.astype(np.int8) + north_east + south_west + south_east
    is_saddle = (count == 2) & (north_west == south_east)
    simple_y, simple_x = np.nonzero((count == 1) | (count == 3))
    saddle_y, saddle_x = np.nonzero(is_saddle)
    # Two pixels that touch at a point only each have a corner there: first the upper pixel's, then the lower pixel's.
    falls = north_west[saddle_y, saddle_x]
    x = np.concatenate([simple_x, saddle_x, saddle_x])
    y = np.concatenate([simple_y, saddle_y, saddle_y])
    none = np.zeros(simple_x.size, bool)
    is_lower = np.concatenate([none, np.zeros(saddle_x.size, bool), np.ones(saddle_x.size, bool)])
    is_right = np.concatenate([none, ~falls, falls])
    across = _edge_ends(np.lexsort((is_right, x, y)))
    along = _edge_ends(np.lexsort((is_lower, y, x)))
    starts = _horizontal_starts(x, y, across, south_east)
    return [np.stack([x[ring], y[ring]], axis=1) for ring in _rings(starts, across, along)]


def _edge_ends(order: np.ndarray) -> np.ndarray:
    """For every corner, the corner at the other end of its edge. order: all corners, line by line along the edges.

    On each line of the grid the first two corners bound one edge, the next two another one, and so on.
    """
    other_end = np.empty_like(order)
    other_end[order[0::2]], other_end[order[1::2]] = order[1::2], order[0::2]
    return other_end


def _horizontal_starts(x: np.ndarray, y: np.ndarray, across: np.ndarray, south_east: np.ndarray) -> np.ndarray:
    """The corners at which a horizontal edge starts if every edge is walked with the mask on the right hand.

    south_east: for every grid point, whether the pixel to its lower right is set. An edge with the mask below it is
    walked to the right, so it starts at its left end; one with the mask above it starts at its right end.
    """
    if not x.size:
        return np.zeros(0, dtype=np.intp)
    is_left_end = x[across] > x
    left_end = np.where(is_left_end, np.arange(x.size), across)
    has_mask_below = south_east[y[left_end], x[left_end]]
    return np.flatnonzero(is_left_end == has_mask_below)


def _rings(starts: np.ndarray, across: np.ndarray, along: np.ndarray) -> Iterator[list[int]]:
    """Yield the corners of each ring in walking order, beginning with the first of ``starts`` not yet in a ring."""
    is_done = np.zeros(across.size, bool)
    # Lists are used, since reading single elements of them is faster than reading those of arrays.
    across_list, along_list = across.tolist(), along.tolist()
    for first in starts.tolist():
        if is_done[first]:
            continue
        ring: list[int] = []
        corner = first
        while not ring or corner != first:
            edge_end = across_list[corner]
            ring += [corner, edge_end]
            corner = along_list[edge_end]
        is_done[ring] = True
        yield ring


def ring_area(ring: np.ndarray) -> float:
    """Signed area of a ring (N, 2): positive where it runs clockwise on the screen."""
    x, y = ring[:, 0], ring[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def polygons(mask: np.ndarray, *, join: bool) -> list[np.ndarray]:
    """Describe a mask by single rings, for formats that know neither holes nor parts.

    Returns one ring per 4-connected part, or one ring for the whole mask if ``join``. Holes, and parts to join, are
    connected to the largest ring by a line that is walked forth and back: it encloses nothing, so areas stay exact.
    """
    if join:
        rings = trace_rings(mask)
        return [_joined(rings)] if rings else []
    parts, _ = ndimage.label(mask)
    found = []
    for number, window in enumerate(ndimage.find_objects(parts), start=1):
        offset = np.array([window[1].start, window[0].start])
        found.append(_joined(trace_rings(parts[window] == number)) + offset)
    return found


def _joined(rings: list[np.ndarray]) -> np.ndarray:
    """Connect every ring to the largest one, by a line between the two corners that lie closest together."""
    largest, *others = sorted(rings, key=lambda ring: -abs(ring_area(ring)))
    if not others:
        return largest
    tree = cKDTree(largest)
    tours: dict[int, list[np.ndarray]] = {}
    for ring in others:
        distances, nearest = tree.query(ring)
        start = int(np.argmin(distances))
        branch = int(nearest[start])
        # A tour goes once around the ring, back to where it began, and then back to the branch on the largest ring.
        tour = np.concatenate([ring[start:], ring[: start + 1], largest[branch][None]])
        tours.setdefault(branch, []).append(tour)
    pieces, done = [], 0
    for branch in sorted(tours):
        pieces += [largest[done : branch + 1], *tours[branch]]
        done = branch + 1
    return np.concatenate([*pieces, largest[done:]])
