"""Compares pixel figures with figures computed by hand and by torchmetrics."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU

from maskmill.pipeline.evaluation.class_pixels import ClassPixels, harmonic_mean, mean
from maskmill.pipeline.evaluation.confusion import confusion_matrix, image_counts, oracle_confusion
from maskmill.pipeline.evaluation.overlaps import Overlaps, OverlapsBuilder, SegmentMap
from tests.pipeline.evaluation.handmade import blobs


def overlaps_of(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int, **settings: int) -> Overlaps:
    """Return the overlaps of label maps, in which the value ``classes`` means ignored and unlabelled."""
    builder = OverlapsBuilder(**settings)
    for gt, pred in pairs:
        builder.add(
            SegmentMap(index=gt.T.ravel().astype(np.uint16), classes=np.arange(classes)),
            SegmentMap(index=pred.T.ravel().astype(np.uint16), classes=np.arange(classes)),
        )
    return builder.finish()


def test_three_classes_by_hand() -> None:
    confusion = np.array(
        [
            [50, 10, 0, 0],
            [20, 15, 0, 5],  # 5 unlabelled
            [0, 0, 0, 0],
            [7, 0, 3, 0],  # ignored
        ]
    )
    pixels = ClassPixels.from_confusion(confusion)
    assert pixels.gt.tolist() == [60, 40, 0]
    assert pixels.pred.tolist() == [70, 25, 0]
    np.testing.assert_allclose(pixels.iou, [50 / 80, 15 / 50, np.nan])
    np.testing.assert_allclose(pixels.accuracy, [50 / 60, 15 / 40, np.nan])
    np.testing.assert_allclose(pixels.precision, [50 / 70, 15 / 25, np.nan])
    assert mean(pixels.iou) == pytest.approx((50 / 80 + 15 / 50) / 2)
    assert pixels.pixel_accuracy() == 0.65
    assert pixels.frequency_weighted_iou() == pytest.approx(0.6 * 50 / 80 + 0.4 * 15 / 50)


def test_no_pixel_at_all_gives_no_figure() -> None:
    pixels = ClassPixels.from_confusion(np.zeros((4, 4), dtype=np.int64))
    assert mean(pixels.iou) is None
    assert pixels.pixel_accuracy() is None
    assert pixels.frequency_weighted_iou() is None


@pytest.mark.parametrize(
    "seen, unseen, expected", [(0.5, 0.5, 0.5), (0.8, 0.2, 0.32), (0.0, 0.0, 0.0), (None, 0.5, None), (0.5, None, None)]
)
def test_harmonic_mean(seen: float | None, unseen: float | None, expected: float | None) -> None:
    assert harmonic_mean(seen, unseen) == (None if expected is None else pytest.approx(expected))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 7), st.integers(1, 5))
def test_agreement_with_torchmetrics(seed: int, classes: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(blobs(rng, classes), blobs(rng, classes)) for _ in range(images)]
    for gt, _ in pairs:
        gt[rng.random(gt.shape) < 0.1] = classes  # ignored
    overlaps = overlaps_of(pairs, classes)
    pixels = ClassPixels.from_confusion(confusion_matrix(overlaps, classes))
    gt, pred = (torch.tensor(np.stack(maps)).long() for maps in zip(*pairs, strict=True))

    # The sums of torchmetrics are float32.
    jaccard = MulticlassJaccardIndex(classes, average="macro", ignore_index=classes)
    assert mean(pixels.iou) == pytest.approx(jaccard(pred, gt).item(), abs=1e-6)
    accuracy = MulticlassAccuracy(classes, average="micro", ignore_index=classes)
    assert pixels.pixel_accuracy() == pytest.approx(accuracy(pred, gt).item(), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_per_image_miou_agrees_with_torchmetrics(seed: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(blobs(rng, 5), blobs(rng, 5)) for _ in range(images)]
    ours = image_counts(overlaps_of(pairs, 5), 5).miou()
    for value, (gt, pred) in zip(ours, pairs, strict=True):
        metric = MeanIoU(num_classes=5, input_format="index")
        metric.update(torch.tensor(pred)[None].long(), torch.tensor(gt)[None].long())
        assert value == pytest.approx(metric.compute().item(), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_counts_equal_a_loop_over_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(rng.integers(0, 4, (5, 6)), rng.integers(0, 4, (5, 6))) for _ in range(3)]  # 3: ignored, unlabelled
    overlaps = overlaps_of(pairs, 3)
    expected = np.zeros((4, 4), dtype=np.int64)
    for gt, pred in pairs:
        for a, b in zip(gt.ravel(), pred.ravel(), strict=True):
            expected[a, b] += 1
    assert np.array_equal(confusion_matrix(overlaps, 3), expected)

    images = image_counts(overlaps, 3)
    by_class = [np.zeros(3, dtype=np.int64) for _ in range(3)]
    for total, part in zip(by_class, (images.intersection, images.gt, images.pred), strict=True):
        np.add.at(total, images.class_id, part)
    pixels = ClassPixels.from_confusion(expected)
    assert [total.tolist() for total in by_class] == [
        pixels.intersection.tolist(),
        pixels.gt.tolist(),
        pixels.pred.tolist(),
    ]
    assert images.correct.sum() == pixels.intersection.sum()
    assert images.compared.sum() == expected[:3].sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 500))
def test_large_images_count_alike_in_blocks_of_any_size(seed: int, block_pixels: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(blobs(rng, 5), blobs(rng, 5)) for _ in range(3)]
    whole, blocks = overlaps_of(pairs, 4), overlaps_of(pairs, 4, block_pixels=block_pixels)
    for field in fields(Overlaps):
        assert np.array_equal(getattr(blocks, field.name), getattr(whole, field.name), equal_nan=True), field.name


def test_oracle_renames_segments_but_does_not_redraw_them() -> None:
    gt = np.array([[0, 0, 0, 1, 1, 2]])
    pred = np.array([[2, 2, 2, 2, 0, 0]])  # two segments: the first mostly 0, the second one half 1 and one half 2
    oracle = oracle_confusion(overlaps_of([(gt, pred)], 3), 3)
    assert oracle[:3, :3].tolist() == [[3, 0, 0], [1, 1, 0], [0, 1, 0]]  # a tie goes to the lower class


def test_an_oracle_is_perfect_on_true_shapes_with_wrong_names() -> None:
    rng = np.random.default_rng(3)
    pairs = []
    for _ in range(4):
        gt = blobs(rng, 5)
        pairs.append((gt, rng.permutation(5)[gt]))
    pixels = ClassPixels.from_confusion(oracle_confusion(overlaps_of(pairs, 5), 5))
    assert mean(pixels.iou) == 1.0
