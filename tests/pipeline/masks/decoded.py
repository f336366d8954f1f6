"""A second way from RLEs to a map, by pycocotools, against which the program's way is tested."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask


def decode_segment_map(rles: list[str], height: int, width: int, values: list[int], fill: int) -> np.ndarray:
    """Paint segments, each with its value: (H, W) uint16, ``fill`` where no segment lies."""
    segment_map = np.full((height, width), fill, dtype=np.uint16)
    for counts, value in zip(rles, values, strict=True):
        mask = coco_mask.decode({"size": [height, width], "counts": counts.encode("ascii")})
        segment_map[mask.astype(bool)] = value
    return segment_map
