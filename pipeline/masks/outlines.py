"""Outlines of masks along the edges of their pixels, so that a polygon has exactly the area of its mask.

Tracers in image libraries go through pixel centres or cut corners, which loses or adds up to half a pixel all around.
Coordinates are (x, y) with the origin at the image's upper left corner; pixel (row, column) covers
[column, column + 1] x [row, row + 1].
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree


def trace_rings(mask: np.ndarray) -> list[np.ndarray]:
    """Trace the outlines of a mask (H, W) of bool: closed rings as (N, 2) int64 corners, the first not repeated.

    Outer rings run clockwise on the screen (positive :func:`ring_area`), holes the other way round. Pixels that touch
    at a corner only belong to different rings.
    """
    padded = np.pad(mask.astype(bool), 1)
    north_west, north_east = padded[:-1, :-1], padded[:-1, 1:]
    south_west, south_east = padded[1:, :-1], padded[1:, 1:]
    count = north_west.astype(np.int8) + north_east + south_west + south_east
    is_saddle = (count == 2) & (north_west == south_east)
    simple_y, simple_x = np.nonzero((count == 1) | (count == 3))
    saddle_y, saddle_x = np.nonzero(is_saddle)
    # A saddle holds two corners, one of each pixel: the one of the pixel above, then the one of the pixel below.
    falls = north_west[saddle_y, saddle_x]
    x = np.concatenate([simple_x, saddle_x, saddle_x])
    y = np.concatenate([simple_y, saddle_y, saddle_y])
    none = np.zeros(simple_x.size, bool)
    is_lower = np.concatenate([none, np.zeros(saddle_x.size, bool), np.ones(saddle_x.size, bool)])
    is_right = np.concatenate([none, ~falls, falls])
    across = _partners(np.lexsort((is_right, x, y)))
    along = _partners(np.lexsort((is_lower, y, x)))
    return _link(x, y, across, along, south_east)


def _partners(order: np.ndarray) -> np.ndarray:
    """Corners that follow one another on a line are the ends of one edge, two by two."""
    partner = np.empty_like(order)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner


def _link(
    x: np.ndarray, y: np.ndarray, across: np.ndarray, along: np.ndarray, south_east: np.ndarray
) -> list[np.ndarray]:
    is_left_end = x[across] > x
    # With the mask below an edge, going right keeps the mask on the right hand.
    left_end = np.where(is_left_end, np.arange(x.size), across)
    goes_right = south_east[y[left_end], x[left_end]] if x.size else np.zeros(0, bool)
    is_start = is_left_end == goes_right
    done = np.zeros(x.size, bool)
    next_across, next_along = across.tolist(), along.tolist()
    rings = []
    for first in np.flatnonzero(is_start).tolist():
        if done[first]:
            continue
        ring = []
        corner = first
        while True:
            end = next_across[corner]
            ring += [corner, end]
            corner = next_along[end]
            if corner == first:
                break
        done[ring] = True
        rings.append(np.stack([x[ring], y[ring]], axis=1))
    return rings


def ring_area(ring: np.ndarray) -> float:
    """Signed area of a ring (N, 2): positive where it runs clockwise on the screen."""
    x, y = ring[:, 0], ring[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def polygons(mask: np.ndarray, *, join: bool) -> list[np.ndarray]:
    """Describe a mask by single rings, for formats that know neither holes nor parts.

    One ring per 4-connected part, or one for all if ``join``. Holes, and parts to join, hang on by a line that is run
    forth and back: it encloses nothing, so areas stay exact.
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
    """Hang every ring on the largest one, between the corners that lie closest together."""
    largest, *others = sorted(rings, key=lambda ring: -abs(ring_area(ring)))
    if not others:
        return largest
    tree = cKDTree(largest)
    tours: dict[int, list[np.ndarray]] = {}
    for ring in others:
        distances, nearest = tree.query(ring)
        own = int(np.argmin(distances))
        back = largest[nearest[own]][None]
        tours.setdefault(int(nearest[own]), []).append(np.concatenate([ring[own:], ring[: own + 1], back]))
    pieces, done = [], 0
    for at in sorted(tours):
        pieces += [largest[done : at + 1], *tours[at]]
        done = at + 1
    return np.concatenate([*pieces, largest[done:]])
