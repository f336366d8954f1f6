"""Class-agnostic figures: how well the predicted segments cover the true ones, whatever their classes."""

from __future__ import annotations

import numpy as np

from maskmill.pipeline.evaluation.overlaps import IOU_UNIT, Overlaps, sum_by

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""IoU thresholds from 0.50 to 0.95, as in COCO's average recall."""


def proposal_counts(overlaps: Overlaps, classes: int) -> np.ndarray:
    """Return (C, 2 + thresholds) int64: true segments, the sum of their best IoU, and how many reach each threshold.

    Rows are the classes of the true segments; crowds are left out. The IoU is computed over compared pixels, so the
    part of a predicted segment on ignored pixels does not lower it.
    """
    compared = overlaps.gt >= 0
    on_both = compared & (overlaps.pred >= 0)
    gt_area = sum_by(overlaps.gt[compared], overlaps.pixels[compared], overlaps.gt_class.size)
    pred_area = overlaps.pixels_of_pred(compared)
    gt, pred, shared = overlaps.gt[on_both], overlaps.pred[on_both], overlaps.pixels[on_both]
    best = np.zeros(gt_area.size)
    np.maximum.at(best, gt, shared / (gt_area[gt] + pred_area[pred] - shared))

    counted = ~overlaps.gt_crowd
    class_id, best = overlaps.gt_class[counted], best[counted]
    columns = [
        np.bincount(class_id, minlength=classes),
        sum_by(class_id, np.rint(best * IOU_UNIT).astype(np.int64), classes),
        *(np.bincount(class_id[best >= threshold], minlength=classes) for threshold in THRESHOLDS),
    ]
    return np.stack(columns, axis=1).astype(np.int64)
