"""Signals of how good a segment is, without ground truth, and which query stands for a class's region.

Legend for shapes: Q queries, C classes, H x W pixels of the output, h x w mask cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from maskmill.model.naming.semantic import Frame

STABILITY_OFFSET = 1.0
"""Stability compares the mask at logits of plus and minus this (SAM's data engine)."""

COUNTED_ROWS = 1024
"""Rows of a label map looked at together; bounds memory, not the result."""


def stability(mask_logits: Tensor) -> Tensor:
    """Return (Q,) |logit > 1| / |logit > -1| of masks (Q, h, w): 1 for a crisp mask, 0 for an empty one."""
    inner = (mask_logits > STABILITY_OFFSET).flatten(1).sum(dim=1)
    outer = (mask_logits > -STABILITY_OFFSET).flatten(1).sum(dim=1)
    return inner / outer.clamp(min=1)


def visible_cells(mask_logits: Tensor) -> Tensor:
    """Return (Q,) int64, how many cells of (Q, h, w) each mask covers with a higher logit than every other mask."""
    strongest = mask_logits.flatten(1).max(dim=0)
    return torch.bincount(strongest.indices[strongest.values > 0], minlength=len(mask_logits))


def margin(scores: Tensor) -> Tensor:
    """Return (Q,) best minus second-best of (Q, C) scores; the best itself where there is one class."""
    best = scores.topk(min(2, scores.shape[1]), dim=1).values
    return best[:, 0] - best[:, 1] if best.shape[1] == 2 else best[:, 0]


def agreement(query_scores: Tensor | None, clip_scores: Tensor | None) -> Tensor | None:
    """Return (Q,) bool, whether both branches have the same best class; None where only one branch ran."""
    if query_scores is None or clip_scores is None:
        return None
    return query_scores.argmax(dim=1) == clip_scores.argmax(dim=1)


def class_queries(label_map: np.ndarray, scores: Tensor, mask_logits: Tensor, frame: Frame) -> np.ndarray:
    """Return (C,) int32, for each class with pixels the query that gives most to its region, -1 for the others.

    What query q gives to class c is scores[q, c] times the sum of sigmoid(mask) over the region. The region is
    sampled at the centres of the mask cells, and at its own pixels where it is too small to hold a cell's centre.

    label_map: (H, W) uint16 in the frame's output size. scores: (Q, C). mask_logits: (Q, h, w).
    """
    (centre_rows, cell_rows), (centre_columns, cell_columns) = cell_axes(mask_logits.shape[1:], frame)
    masks = mask_logits[:, : len(centre_rows), : len(centre_columns)].sigmoid().flatten(1)
    present = _present(label_map, scores.shape[1])
    counts = label_map[np.ix_(centre_rows, centre_columns)].ravel() == present[:, None]
    counts = counts.astype(np.float32)
    small = counts.sum(axis=1) == 0
    for labels, rows, columns in _pixels_of(label_map, present[small]):
        cells = cell_rows[rows] * len(centre_columns) + cell_columns[columns]
        np.add.at(counts, (np.searchsorted(present, labels), cells), 1.0)
    given = scores[:, torch.from_numpy(present)] * (masks @ torch.from_numpy(counts).to(masks).T)
    best = np.full(scores.shape[1], -1, np.int32)
    best[present] = given.argmax(dim=0).cpu().numpy()
    return best


def cell_axes(cells: Sequence[int], frame: Frame) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return for rows and for columns the output index at the centre of each cell, and the cell of each output index.

    cells: (h, w) of the masks; those that cover no image are left out.
    """
    return tuple(
        _axis(cells[axis], frame.padded_size[axis], frame.image_size[axis], frame.output_size[axis]) for axis in (0, 1)
    )


def _axis(cells: int, padded: int, image: int, output: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the output index at the centre of each mask cell that covers some image, and the cell of each output."""
    scale = padded / cells
    covering = -(-image // scale)
    centres = np.minimum((np.arange(covering) + 0.5) * scale, image - 0.5)
    owners = (np.arange(output) + 0.5) * (image / output) / scale
    return (centres * (output / image)).astype(np.int64), owners.astype(np.int64)


def _present(label_map: np.ndarray, classes: int) -> np.ndarray:
    """Return the ids of the classes that have pixels, ascending."""
    found = np.zeros(np.iinfo(label_map.dtype).max + 1, bool)
    for start in range(0, len(label_map), COUNTED_ROWS):
        found[label_map[start : start + COUNTED_ROWS]] = True
    return found[:classes].nonzero()[0]


def _pixels_of(label_map: np.ndarray, classes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (labels, rows, columns) of all pixels of the given classes."""
    if not len(classes):
        return
    wanted = np.zeros(np.iinfo(label_map.dtype).max + 1, bool)
    wanted[classes] = True
    for start in range(0, len(label_map), COUNTED_ROWS):
        chunk = label_map[start : start + COUNTED_ROWS]
        rows, columns = wanted[chunk].nonzero()
        yield chunk[rows, columns], rows + start, columns
