"""Panoptic quality (Kirillov et al., CVPR 2019) from overlap cells."""

from __future__ import annotations

import numpy as np

from maskmill.pipeline.evaluation.overlaps import Overlaps, sum_by

COLUMNS = ("true_positives", "false_positives", "false_negatives", "iou_sum")
IOU_UNIT = 2**32
"""IoU is summed in integer units of 2^-32, so that sums do not depend on their order."""


def panoptic_counts(overlaps: Overlaps, things: np.ndarray) -> np.ndarray:
    """Count matches: (C, 4) int64 in the order of COLUMNS.

    things: (C,) bool. All segments of one stuff class in an image are one. A match is a pair of the same class with an
    IoU over one half, ignored pixels left out of the union; crowds are never missed, and a predicted segment that lies
    mostly on ignored pixels or on a crowd of its class is not wrong.
    """
    classes = things.size
    gt_group, gt_class, gt_crowd = _groups(overlaps.gt_image, overlaps.gt_class, overlaps.gt_crowd, things)
    never = np.zeros(overlaps.pred_class.size, dtype=bool)
    pred_group, pred_class, _ = _groups(overlaps.pred_image, overlaps.pred_class, never, things)
    gt, pred = np.append(gt_group, -1)[overlaps.gt], np.append(pred_group, -1)[overlaps.pred]
    gt_area = _area(gt, overlaps.pixels, gt >= 0, gt_class.size)
    pred_area = _area(pred, overlaps.pixels, pred >= 0, pred_class.size)
    same = (gt >= 0) & (pred >= 0) & (np.append(gt_class, -1)[gt] == np.append(pred_class, -2)[pred])
    on_crowd = np.append(gt_crowd, False)[gt]
    ignored = _area(pred, overlaps.pixels, (gt < 0) & (pred >= 0), pred_class.size)
    excused = ignored + _area(pred, overlaps.pixels, same & on_crowd, pred_class.size)

    countable = same & ~on_crowd
    pairs, place = np.unique(gt[countable] * pred_class.size + pred[countable], return_inverse=True)
    shared = sum_by(place, overlaps.pixels[countable], pairs.size)
    pair_gt, pair_pred = np.divmod(pairs, pred_class.size)
    union = gt_area[pair_gt] + pred_area[pair_pred] - ignored[pair_pred] - shared
    is_match = 2 * shared > union
    matched_gt, matched_pred = pair_gt[is_match], pair_pred[is_match]
    iou = np.rint(shared[is_match] / union[is_match] * IOU_UNIT).astype(np.int64)

    is_missed = ~gt_crowd
    is_missed[matched_gt] = False
    is_wrong = (2 * excused <= pred_area) & (pred_area > 0)
    is_wrong[matched_pred] = False
    counts = np.zeros((classes, len(COLUMNS)), dtype=np.int64)
    counts[:, 0] = np.bincount(gt_class[matched_gt], minlength=classes)
    counts[:, 1] = np.bincount(pred_class[is_wrong], minlength=classes)
    counts[:, 2] = np.bincount(gt_class[is_missed], minlength=classes)
    counts[:, 3] = sum_by(gt_class[matched_gt], iou, classes)
    return counts


def _groups(
    image: np.ndarray, class_id: np.ndarray, crowd: np.ndarray, things: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join the stuff segments of one class and image: each segment's group, then the groups' class and crowd."""
    keys = image * things.size + class_id
    is_alone = things[class_id] | crowd
    keys[is_alone] = -1 - np.arange(np.count_nonzero(is_alone))
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return group, class_id[first], crowd[first]


def _area(group: np.ndarray, pixels: np.ndarray, where: np.ndarray, groups: int) -> np.ndarray:
    return sum_by(group[where], pixels[where], groups)


def quality(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return PQ, SQ and RQ of each class (0..1) from counts (C, 4); NaN for a class that is on neither side.

    SQ is zero where nothing matched, as in the reference implementation.
    """
    tp, fp, fn, iou_sum = (counts[:, i].astype(np.float64) for i in range(len(COLUMNS)))
    iou_sum = iou_sum / IOU_UNIT
    present = tp + fp + fn > 0
    weight = np.where(present, tp + fp / 2 + fn / 2, 1.0)
    pq, sq, rq = iou_sum / weight, iou_sum / np.maximum(tp, 1.0), tp / weight
    return tuple(np.where(present, values, np.nan) for values in (pq, sq, rq))  # type: ignore[return-value]
