"""Panoptic quality (Kirillov et al., CVPR 2019) from overlap cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskmill.pipeline.evaluation.overlaps import IOU_UNIT, Overlaps, sum_by

COLUMNS = ("true_positives", "false_positives", "false_negatives", "iou_sum")


def panoptic_counts(overlaps: Overlaps, things: np.ndarray) -> np.ndarray:
    """Count matches: (C, 4) int64 in the order of COLUMNS.

    things: (C,) bool. All segments of one stuff class in an image are joined to one. A match is a pair of segments of
    the same class with an IoU over one half, with ignored pixels left out of the union. A crowd is never missed, and a
    predicted segment that lies mostly on ignored pixels or on a crowd of its class is not wrong.
    """
    gt = _join_stuff(overlaps.gt_image, overlaps.gt_class, overlaps.gt_crowd, things)
    no_crowd = np.zeros(overlaps.pred_class.size, dtype=bool)
    pred = _join_stuff(overlaps.pred_image, overlaps.pred_class, no_crowd, things)
    gt_of_cell, pred_of_cell = gt.of_cells(overlaps.gt), pred.of_cells(overlaps.pred)
    # The classes of "no segment" differ, -1 and -2, so that a cell without a segment is never of the same class.
    is_same_class = np.append(gt.classes, -1)[gt_of_cell] == np.append(pred.classes, -2)[pred_of_cell]
    is_on_crowd = np.append(gt.crowd, False)[gt_of_cell]

    pred_area = pred.area(pred_of_cell, overlaps.pixels)
    ignored = pred.area(pred_of_cell, overlaps.pixels, where=gt_of_cell < 0)
    on_crowd = pred.area(pred_of_cell, overlaps.pixels, where=is_same_class & is_on_crowd)
    can_match = is_same_class & ~is_on_crowd
    pair_gt, pair_pred, shared = _pairs(gt_of_cell[can_match], pred_of_cell[can_match], overlaps.pixels[can_match])
    union = gt.area(gt_of_cell, overlaps.pixels)[pair_gt] + (pred_area - ignored)[pair_pred] - shared
    is_match = 2 * shared > union
    matched_gt, matched_pred = pair_gt[is_match], pair_pred[is_match]
    iou = np.rint(shared[is_match] / union[is_match] * IOU_UNIT).astype(np.int64)

    is_missed = ~gt.crowd
    is_missed[matched_gt] = False
    is_wrong = (2 * (ignored + on_crowd) <= pred_area) & (pred_area > 0)
    is_wrong[matched_pred] = False
    counts = (
        np.bincount(gt.classes[matched_gt], minlength=things.size),
        np.bincount(pred.classes[is_wrong], minlength=things.size),
        np.bincount(gt.classes[is_missed], minlength=things.size),
        sum_by(gt.classes[matched_gt], iou, things.size),
    )
    return np.stack(counts, axis=1).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Joined:
    """The R segments that one side is scored by, made from S segments by :func:`_join_stuff`.

    of_segment: (S,) in 0..R - 1. classes: (R,). crowd: (R,) bool.
    """

    of_segment: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray

    def of_cells(self, segments: np.ndarray) -> np.ndarray:
        """Return (N,) the joined segment of each cell, from the cell's segment; -1 where that is -1, "none"."""
        return np.append(self.of_segment, -1)[segments]

    def area(self, of_cells: np.ndarray, pixels: np.ndarray, where: np.ndarray | bool = True) -> np.ndarray:
        """Return (R,) the pixels of each joined segment in the cells chosen by ``where``; of_cells, pixels: (N,)."""
        chosen = (of_cells >= 0) & where
        return sum_by(of_cells[chosen], pixels[chosen], self.classes.size)


def _join_stuff(image: np.ndarray, class_id: np.ndarray, crowd: np.ndarray, things: np.ndarray) -> _Joined:
    """Join the stuff segments of one class in one image; every thing and every crowd stays a segment by itself.

    image, class_id, crowd: (S,).
    """
    # Segments with the same key are joined: one key per image and class, and a negative key that nothing else has for
    # each segment that stays alone.
    keys = image * things.size + class_id
    is_alone = things[class_id] | crowd
    keys[is_alone] = -1 - np.arange(np.count_nonzero(is_alone))
    _, first, joined = np.unique(keys, return_index=True, return_inverse=True)
    return _Joined(joined, class_id[first], crowd[first])


def _pairs(gt: np.ndarray, pred: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return every pair (gt, pred) that occurs in the cells, once, and the pixels the two share."""
    preds = int(pred.max(initial=0)) + 1
    pairs, pair_of_cell = np.unique(gt * preds + pred, return_inverse=True)
    return *np.divmod(pairs, preds), sum_by(pair_of_cell, pixels, pairs.size)


def quality(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return PQ, SQ and RQ of each class (0..1) from counts (C, 4); NaN for a class that neither side has.

    SQ is zero where nothing matched, as in the reference implementation.
    """
    tp, fp, fn, iou_sum = (counts[:, i].astype(np.float64) for i in range(len(COLUMNS)))
    iou_sum = iou_sum / IOU_UNIT
    present = tp + fp + fn > 0
    weight = np.where(present, tp + fp / 2 + fn / 2, 1.0)
    pq, sq, rq = iou_sum / weight, iou_sum / np.maximum(tp, 1.0), tp / weight
    return tuple(np.where(present, values, np.nan) for values in (pq, sq, rq))  # type: ignore[return-value]
