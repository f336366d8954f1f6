"""Tests the figures of segments: calibration and class-agnostic recall."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_calibration_error

from maskmill.pipeline.evaluation.calibration import (
    BINS,
    SCORE_UNIT,
    calibration_counts,
    expected_calibration_error,
    reliability,
)
from maskmill.pipeline.evaluation.overlaps import IOU_UNIT, Overlaps, OverlapsBuilder, SegmentMap
from maskmill.pipeline.evaluation.proposals import THRESHOLDS, proposal_counts


def overlaps_of(truth: list[int], segments: list[int], classes: list[int], scores: list[float] | None) -> Overlaps:
    """Return the overlaps of an image with one row: classes of its pixels (9: ignored), and each pixel's segment."""
    gt = np.array(truth)
    builder = OverlapsBuilder()
    builder.add(
        SegmentMap(index=np.where(gt == 9, 3, gt).astype(np.uint16), classes=np.arange(3)),
        SegmentMap(
            index=np.array(segments, dtype=np.uint16),
            classes=np.array(classes),
            scores=None if scores is None else np.array(scores, dtype=np.float32),
        ),
    )
    return builder.finish()


def test_calibration_by_hand() -> None:
    # Segment 0 (class 0, score 0.9): 3 of 4 pixels right. Segment 1 (class 1, 0.3): 1 of 3 right, one ignored pixel.
    overlaps = overlaps_of([0, 0, 0, 1, 1, 2, 2, 9], [0, 0, 0, 0, 1, 1, 1, 1], [0, 1], [0.9, 0.3])
    by_segment, by_pixel = calibration_counts(overlaps)
    high, low = int(0.9 * BINS), int(0.3 * BINS)
    assert by_segment[[high, low], 0].tolist() == [1, 1]
    assert by_segment[[high, low], 2].tolist() == [1, 0]
    assert by_pixel[[high, low], 0].tolist() == [4, 3]
    assert by_pixel[[high, low], 2].tolist() == [3, 1]
    resolution = 1 / SCORE_UNIT
    assert expected_calibration_error(by_segment) == pytest.approx((0.1 + 0.3) / 2, abs=resolution)
    assert expected_calibration_error(by_pixel) == pytest.approx(
        (4 * abs(0.75 - 0.9) + 3 * abs(1 / 3 - 0.3)) / 7, abs=resolution
    )
    row = reliability(by_pixel)[high]
    assert row["count"] == 4
    assert row["accuracy"] == 0.75
    assert row["score_mean"] == pytest.approx(0.9, abs=resolution)
    assert reliability(by_pixel)[0]["accuracy"] is None


def test_no_scores_no_calibration() -> None:
    by_segment, by_pixel = calibration_counts(overlaps_of([0, 1], [0, 0], [0], None))
    assert by_segment.sum() == by_pixel.sum() == 0
    assert expected_calibration_error(by_segment) is None


def test_scores_outside_0_to_1_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1, found 1\.5"):
        calibration_counts(overlaps_of([0, 1], [0, 0], [0], [1.5]))


inside_a_bin = st.builds(lambda number, place: (number + place) / BINS, st.integers(0, BINS - 1), st.floats(0.01, 0.99))
"""Scores away from the edges of the bins, since the two implementations put an edge into different bins."""


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(inside_a_bin, st.booleans()), min_size=1, max_size=60))
def test_ece_agrees_with_torchmetrics(segments: list[tuple[float, bool]]) -> None:
    truth = [0 if correct else 1 for _, correct in segments]
    scores = [score for score, _ in segments]
    overlaps = overlaps_of(truth, list(range(len(segments))), [0] * len(segments), scores)
    ours = expected_calibration_error(calibration_counts(overlaps)[0])
    theirs = binary_calibration_error(
        torch.tensor(scores), torch.tensor([int(correct) for _, correct in segments]), n_bins=BINS, norm="l1"
    )
    assert ours == pytest.approx(
        theirs.item(), abs=1e-5
    )  # torchmetrics adds in float32; here scores are rounded to 2^-20


def test_recall_and_best_iou_ignore_names() -> None:
    # True segments: class 0 (4 pixels), class 1 (4), class 2 (2). Segments: 3 of class 0's pixels, all of 1's and 2's.
    overlaps = overlaps_of([0, 0, 0, 0, 1, 1, 1, 1, 2, 2], [0, 0, 0, 2, 1, 1, 1, 1, 1, 1], [2, 2], None)
    counts = proposal_counts(overlaps, 3)
    assert counts[:, 0].tolist() == [1, 1, 1]
    np.testing.assert_allclose(counts[:, 1] / IOU_UNIT, [3 / 4, 4 / 6, 2 / 6], atol=1 / IOU_UNIT)
    assert counts[:, 2].tolist() == [1, 1, 0]
    assert counts[0, 2:].tolist() == [int(threshold <= 0.75) for threshold in THRESHOLDS]


def test_ignored_pixels_cost_a_segment_nothing() -> None:
    counts = proposal_counts(overlaps_of([0, 0, 9, 9, 9], [0, 0, 0, 0, 0], [1], None), 3)
    assert counts[0, 0] == 1
    assert counts[0, 1] == IOU_UNIT


def test_a_true_segment_without_any_prediction_counts_as_missed() -> None:
    counts = proposal_counts(overlaps_of([0, 0], [0, 0], [], None), 3)
    assert counts[0].tolist() == [1] + [0] * (1 + len(THRESHOLDS))
