"""Compares with the release's confusion matrices and figures: equal where it is right, with each difference stated."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from maskmill.pipeline.evaluation.class_pixels import ClassPixels
from maskmill.pipeline.evaluation.confusion import confusion_matrix
from maskmill.pipeline.evaluation.document import pixel_figures
from maskmill.pipeline.evaluation.overlaps import Overlaps, OverlapsBuilder, SegmentMap
from maskmill.pipeline.evaluation.protocol import Protocol, protocol_from_data

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
RELEASE = json.loads((GOLDEN / "eval_results.json").read_text())
CASES = ("all_present", "absent_in_gt_but_predicted", "absent_everywhere", "unseen_absent_in_gt")
SUMMATION = 1e-12
"""Relative tolerance for sums of at most eight doubles in another order. The largest measured difference is 2e-16."""


@pytest.fixture
def protocol() -> Protocol:
    unseen = set(RELEASE["unseen"])
    classes = [{"name": name, "seen": name not in unseen} for name in RELEASE["class_names"]]
    return protocol_from_data({"classes": classes, "ignore_label": RELEASE["ignore_label"]}, name="golden")


def overlaps_of(case: str) -> Overlaps:
    arrays = np.load(GOLDEN / "eval.npz")
    builder = OverlapsBuilder()
    for i in range(3):
        gt, pred = arrays[f"{case}__gt{i}"], arrays[f"{case}__pred{i}"]
        gt = np.where(gt == 255, 8, gt).astype(np.uint16)
        classes = np.arange(8)
        builder.add(
            SegmentMap(index=gt.T.ravel(), classes=classes),
            SegmentMap(index=pred.T.ravel().astype(np.uint16), classes=classes),
        )
    return builder.finish()


@pytest.mark.parametrize("case", CASES)
def test_confusion_matrix_is_the_releases_own(case: str) -> None:
    expected = np.load(GOLDEN / "eval.npz")[
        f"{case}__conf_matrix"
    ].T  # the release's matrix has the prediction in its rows
    assert np.array_equal(confusion_matrix(overlaps_of(case), 8), expected)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("evaluator", ["mask_former.evaluation", "train_net"])
def test_overall_figures_agree_in_every_case(case: str, evaluator: str, protocol: Protocol) -> None:
    theirs = RELEASE["results"][f"{case}/{evaluator}"]
    ours = pixel_figures(confusion_matrix(overlaps_of(case), 8), protocol)
    for key, name in (
        ("mIoU", "miou"),
        ("fwIoU", "fwiou"),
        ("mACC", "mean_accuracy"),
        ("pACC", "pixel_accuracy"),
    ):
        assert ours[name] == pytest.approx(theirs[key], rel=SUMMATION), key


@pytest.mark.parametrize("case", CASES)
def test_per_class_figures_agree_except_where_theirs_are_nan(case: str, protocol: Protocol) -> None:
    theirs = RELEASE["results"][f"{case}/train_net"]
    pixels = ClassPixels.from_confusion(confusion_matrix(overlaps_of(case), 8))
    for class_id, name in enumerate(protocol.names):
        if not math.isnan(theirs[f"IoU-{name}"]):
            assert 100 * pixels.iou[class_id] == pytest.approx(theirs[f"IoU-{name}"], rel=SUMMATION)
            assert 100 * pixels.accuracy[class_id] == pytest.approx(theirs[f"ACC-{name}"], rel=SUMMATION)
        else:  # without ground truth the release gives NaN; here a class that was predicted has IoU 0
            assert pixels.gt[class_id] == 0
            assert np.isnan(pixels.accuracy[class_id])
            assert pixels.iou[class_id] == 0 if pixels.pred[class_id] else np.isnan(pixels.iou[class_id])


def test_seen_unseen_and_harmonic_agree_where_all_classes_are_present(protocol: Protocol) -> None:
    theirs = RELEASE["results"]["all_present/train_net"]
    ours = pixel_figures(confusion_matrix(overlaps_of("all_present"), 8), protocol)
    assert ours["miou_seen"] == pytest.approx(theirs["seen_IoU"], rel=SUMMATION)
    assert ours["miou_unseen"] == pytest.approx(theirs["unseen_IoU"], rel=SUMMATION)
    assert ours["miou_harmonic"] == pytest.approx(theirs["harmonic mean"], rel=SUMMATION)


@pytest.mark.parametrize(
    "case, group, present, total",
    [
        ("absent_in_gt_but_predicted", "seen", 4, 5),  # playing-field: predicted, so an IoU of 0 enters the mean
        ("absent_everywhere", "seen", 4, 4),  # playing-field: nowhere, so it is left out
        ("unseen_absent_in_gt", "unseen", 2, 3),  # cow: predicted
    ],
)
def test_group_means_where_the_release_says_nan(
    case: str, group: str, present: int, total: int, protocol: Protocol
) -> None:
    theirs = RELEASE["results"][f"{case}/train_net"]
    assert math.isnan(theirs[f"{group}_IoU"])
    own = [name for name in protocol.names if (name in RELEASE["unseen"]) == (group == "unseen")]
    known = [theirs[f"IoU-{name}"] for name in own if not math.isnan(theirs[f"IoU-{name}"])]
    assert len(known) == present
    ours = pixel_figures(confusion_matrix(overlaps_of(case), 8), protocol)
    assert ours[f"miou_{group}"] == pytest.approx(sum(known) / total, rel=SUMMATION)
    assert ours["miou_harmonic"] is not None


def test_the_release_gives_iou_under_the_name_accuracy_and_we_do_not(protocol: Protocol) -> None:
    theirs = RELEASE["results"]["all_present/mask_former.evaluation"]
    ours = pixel_figures(confusion_matrix(overlaps_of("all_present"), 8), protocol)
    assert theirs["unseen_acc"] == theirs["unseen_IoU"]
    accuracies = [theirs[f"ACC-{name}"] for name in RELEASE["unseen"]]
    assert ours["mean_accuracy_unseen"] == pytest.approx(sum(accuracies) / 3, rel=SUMMATION)
