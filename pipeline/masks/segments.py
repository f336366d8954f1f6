"""Describes the segments of a map: RLEs, areas, boxes and pieces, in pixels of the original image.

Legend: H x W pixels, S segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask
from scipy import ndimage


@dataclass(frozen=True, slots=True)
class SegmentGeometry:
    """Where the segments of one image lie; S entries each, in the order they were asked for.

    rles: COCO compressed counts. areas: pixels. boxes: XYWH, int. components: 8-connected pieces.
    """

    rles: list[str]
    areas: list[int]
    boxes: list[list[int]]
    components: list[int]


def segment_geometry(segment_map: np.ndarray, values: list[int]) -> SegmentGeometry:
    """Describe the regions of ``segment_map`` (H, W; unsigned) that hold each of ``values``.

    The map is cut into column-major runs once for all segments, so the cost grows with the number of borders, not with
    pixels times segments. Raises ValueError for a value that no pixel has.
    """
    height, width = segment_map.shape
    flat = segment_map.ravel(order="F")
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(starts, append=flat.size)
    run_values = flat[starts]
    rles, areas, boxes, components = [], [], [], []
    for value in values:
        is_value = run_values == value
        if not is_value.any():
            raise ValueError(f"segment value {value} has no pixel in the map")
        rle = coco_mask.frPyObjects(
            {"size": [height, width], "counts": _counts(starts[is_value], lengths[is_value], flat.size)}, height, width
        )
        rles.append(rle["counts"].decode("ascii"))
        areas.append(int(coco_mask.area(rle)))
        boxes.append([int(edge) for edge in coco_mask.toBbox(rle)])
        components.append(_components(segment_map, value, boxes[-1]))
    return SegmentGeometry(rles, areas, boxes, components)


def _components(segment_map: np.ndarray, value: int, box: list[int]) -> int:
    left, top, width, height = box
    inside = segment_map[top : top + height, left : left + width] == value
    return int(ndimage.label(inside, structure=np.ones((3, 3), np.int8))[1])


def _counts(starts: np.ndarray, lengths: np.ndarray, size: int) -> list[int]:
    """Uncompressed COCO counts (off, on, off, ...) of the runs that begin at ``starts`` and last ``lengths``."""
    ends = starts + lengths
    counts = np.empty(2 * starts.size, dtype=np.int64)
    counts[0] = starts[0]
    counts[2::2] = starts[1:] - ends[:-1]
    counts[1::2] = lengths
    tail = size - int(ends[-1])
    return [*counts.tolist(), tail] if tail else counts.tolist()
