"""Maps of which segment covers each pixel of an image, in full or sampled to the size of a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskmill.pipeline.masks.rle import parse_runs


def segment_map(rles: Sequence[str], height: int, width: int) -> np.ndarray:
    """Paint segments: (height, width) uint16 of positions in ``rles``, len(rles) where there is none.

    The work follows the number of runs. Raises ValueError where the RLEs are damaged or share pixels.
    """
    ends = np.cumsum([len(rle) for rle in rles], dtype=np.int64)
    text = np.frombuffer("".join(rles).encode("ascii"), np.uint8)
    runs = parse_runs(text, ends, np.array([len(rles)]), np.array([height * width]))
    return runs.paint(0, height * width, len(rles)).reshape(width, height).T


def value_map(rles: Sequence[str], values: Sequence[int], fill: int, height: int, width: int) -> np.ndarray:
    """Paint each segment with its entry of ``values``: (height, width) uint16, ``fill`` where there is none."""
    return np.array([*values, fill], dtype=np.uint16)[segment_map(rles, height, width)]


def sampled_size(height: int, width: int, side: int) -> tuple[int, int]:
    """The (height, width) of a picture whose long side is at most ``side``."""
    scale = max(1.0, max(height, width) / side)
    return max(1, round(height / scale)), max(1, round(width / scale))


def sampled_segment_map(rles: Sequence[str], height: int, width: int, side: int) -> np.ndarray:
    """Paint segments and take the pixels at the centres of a grid of :func:`sampled_size`."""
    return resize_nearest(segment_map(rles, height, width), *sampled_size(height, width, side))


def resize_nearest(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bring a map (H, W) to (height, width): every pixel takes the value that lies at its centre."""
    rows = ((np.arange(height) + 0.5) * (values.shape[0] / height)).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * (values.shape[1] / width)).astype(np.intp)
    return values[rows[:, None], columns]
