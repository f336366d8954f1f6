"""Calibration of scores: reliability bins and the expected calibration error (Guo et al., ICML 2017)."""

from __future__ import annotations

import numpy as np

from maskmill.pipeline.evaluation.overlaps import Overlaps, sum_by

BINS = 15
SCORE_UNIT = 2**20
"""Scores are summed in integer units of 2^-20, so that sums do not depend on their order."""
COLUMNS = ("count", "score_sum", "correct")


def calibration_counts(overlaps: Overlaps) -> tuple[np.ndarray, np.ndarray]:
    """Fill reliability bins of equal width over 0..1: two arrays (BINS, 3) int64 in the order of COLUMNS.

    The first array counts segments: a segment is correct if most of its compared pixels have its class. The second
    array counts compared pixels, each with the score of its segment. Segments without a score or without a compared
    pixel are in neither. Raises ValueError for scores outside 0..1.
    """
    compared = overlaps.pixels_of_pred(overlaps.gt >= 0)
    is_right = (overlaps.gt >= 0) & (overlaps.class_of_gt(-1) == overlaps.class_of_pred(-2))
    right = overlaps.pixels_of_pred(is_right)
    scored = np.flatnonzero(~np.isnan(overlaps.pred_score) & (compared > 0))
    score = overlaps.pred_score[scored].astype(np.float64)
    if score.size and (score.min() < 0 or score.max() > 1):
        raise ValueError(f"scores must lie in 0..1, found {score.min():g} to {score.max():g}")
    bins = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    units = np.rint(score * SCORE_UNIT).astype(np.int64)
    segment_is_correct = overlaps.majority_classes()[scored] == overlaps.pred_class[scored]
    segments = (np.ones(scored.size, dtype=np.int64), units, segment_is_correct)
    pixels = (compared[scored], units * compared[scored], right[scored])
    by_segment, by_pixel = (
        np.stack([sum_by(bins, column, BINS) for column in columns], axis=1) for columns in (segments, pixels)
    )
    return by_segment, by_pixel


def expected_calibration_error(bins: np.ndarray) -> float | None:
    """Return the mean distance of accuracy from score over the bins (BINS, 3), weighted by count, in 0..1.

    None if all bins are empty.
    """
    count, score_sum, correct = (bins[:, i].astype(np.float64) for i in range(len(COLUMNS)))
    total = count.sum()
    return None if total == 0 else float(np.abs(correct - score_sum / SCORE_UNIT).sum() / total)


def reliability(bins: np.ndarray) -> list[dict[str, float | int | None]]:
    """Return the bins of a reliability diagram: edges, count, mean score and accuracy in 0..1 (None if empty)."""
    rows: list[dict[str, float | int | None]] = []
    for position, (count, score_sum, correct) in enumerate(bins.tolist()):
        rows.append(
            {
                "score_from": position / BINS,
                "score_to": (position + 1) / BINS,
                "count": count,
                "score_mean": score_sum / SCORE_UNIT / count if count else None,
                "accuracy": correct / count if count else None,
            }
        )
    return rows
