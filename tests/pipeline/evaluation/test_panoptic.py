from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.detection import PanopticQuality

from maskmill.pipeline.evaluation.overlaps import OverlapsBuilder, SegmentMap
from maskmill.pipeline.evaluation.panoptic import panoptic_counts, quality

THINGS = np.array([True, True, False, False])
CLASSES = THINGS.size


def segments(classes: np.ndarray, instances: np.ndarray, crowd: np.ndarray | None = None) -> SegmentMap:
    """Return segments of (class, instance) pairs; class CLASSES means no segment."""
    keys = classes.T.ravel().astype(np.int64) * 100 + instances.T.ravel()
    unique, index = np.unique(keys, return_inverse=True)
    kept = unique < CLASSES * 100
    number = np.where(kept, np.cumsum(kept) - 1, kept.sum())
    own = unique[kept] // 100
    is_crowd = None if crowd is None else crowd.T.ravel()[np.unique(keys, return_index=True)[1]][kept]
    return SegmentMap(index=number[index].astype(np.uint16), classes=own, crowd=is_crowd)


def counts_of(*pairs: tuple[SegmentMap, SegmentMap]) -> np.ndarray:
    builder = OverlapsBuilder()
    for truth, predicted in pairs:
        builder.add(truth, predicted)
    return panoptic_counts(builder.finish(), THINGS)


def random_scene(rng: np.random.Generator, shape: tuple[int, int] = (16, 18)) -> tuple[np.ndarray, np.ndarray]:
    """Return class and instance maps: a stuff ground with thing rectangles."""
    classes, instances = np.full(shape, 2 + rng.integers(2)), np.zeros(shape, dtype=np.int64)
    classes[:, : rng.integers(1, shape[1])] = 2 + rng.integers(2)
    for instance in range(1, 5):
        y, x = rng.integers(0, shape[0] - 3), rng.integers(0, shape[1] - 3)
        own = np.s_[y : y + rng.integers(3, 9), x : x + rng.integers(3, 9)]
        classes[own], instances[own] = rng.integers(2), instance
    return classes, instances


def disturbed(rng: np.random.Generator, classes: np.ndarray, instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scene moved by a pixel, with a rectangle overwritten, so that some segments match and some do not."""
    classes, instances = np.roll(classes, rng.integers(2), 0), np.roll(instances, rng.integers(2), 1)
    y, x = rng.integers(0, 10, 2)
    classes[y : y + 6, x : x + 6], instances[y : y + 6, x : x + 6] = rng.integers(CLASSES), 9
    return classes, np.where(THINGS[classes], instances, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.booleans())
def test_agreement_with_torchmetrics(seed: int, images: int, with_ignored: bool) -> None:
    rng = np.random.default_rng(seed)
    metric = PanopticQuality(
        things={0, 1}, stuffs={2, 3}, allow_unknown_preds_category=True, return_sq_and_rq=True, return_per_class=True
    )
    pairs = []
    for _ in range(images):
        truth = random_scene(rng)
        predicted = disturbed(rng, *truth)
        if with_ignored:
            y, x = rng.integers(0, 8, 2)
            truth[0][y : y + 7, x : x + 7], truth[1][y : y + 7, x : x + 7] = CLASSES, 0
        pairs.append((segments(*truth), segments(*predicted)))
        metric.update(*(torch.tensor(np.stack(maps, axis=-1))[None] for maps in (predicted, truth)))
    ours = np.stack(quality(counts_of(*pairs)), axis=1)
    theirs = metric.compute().numpy()
    # For a class on neither side torchmetrics gives 0, this code NaN. Its sums are float32; IoUs here are in units of
    # 2^-32.
    np.testing.assert_allclose(np.nan_to_num(ours), theirs, atol=1e-6)


def test_by_hand() -> None:
    classes = np.array([[0, 0, 0, 0, 1, 1, 2, 2]])
    truth = segments(classes, np.array([[1, 1, 1, 1, 1, 1, 0, 0]]))
    predicted = segments(np.array([[0, 0, 0, 3, 1, 2, 2, 2]]), np.array([[1, 1, 1, 0, 1, 0, 0, 0]]))
    counts = counts_of((truth, predicted))
    # Class 0: IoU 3/4. Class 1: IoU 1/2 is no match. Class 2: IoU 2/3. Class 3: predicted only.
    assert counts[:, :3].tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 1, 0]]
    pq, sq, rq = quality(counts)
    np.testing.assert_allclose(pq, [0.75, 0, 2 / 3, 0], atol=2**-32)
    np.testing.assert_allclose(sq, [0.75, 0, 2 / 3, 0], atol=2**-32)
    np.testing.assert_allclose(rq, [1, 0, 1, 0])


def test_stuff_in_pieces_is_one_segment_and_things_are_not() -> None:
    classes = np.array([[2, 2, 2, 0, 0, 0]])
    truth = segments(classes, np.array([[0, 0, 0, 1, 1, 1]]))
    predicted = segments(classes, np.array([[1, 2, 3, 1, 1, 2]]))
    counts = counts_of((truth, predicted))
    assert counts[2, :3].tolist() == [1, 0, 0]
    assert counts[0, :3].tolist() == [1, 1, 0]


@pytest.mark.parametrize("pixels, false_positives", [(4, 1), (6, 0)])
def test_a_segment_mostly_on_ignored_pixels_is_not_wrong(pixels: int, false_positives: int) -> None:
    classes = np.full((1, 10), 2)
    classes[0, :pixels] = CLASSES
    predicted = segments(np.zeros((1, 10), dtype=np.int64), np.ones((1, 10), dtype=np.int64))
    counts = counts_of((segments(classes, np.zeros((1, 10), dtype=np.int64)), predicted))
    assert counts[0, :3].tolist() == [0, false_positives, 0]
    assert counts[2, 2] == 1


def test_crowds_are_never_missed_and_excuse_their_class_only() -> None:
    classes, instances = np.zeros((1, 8), dtype=np.int64), np.ones((1, 8), dtype=np.int64)
    crowd = segments(classes, instances, crowd=np.ones((1, 8), dtype=bool))
    assert counts_of((crowd, segments(classes, instances)))[:, :3].sum() == 0
    other = counts_of((crowd, segments(classes + 1, instances)))
    assert other[:, :3].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_unlabelled_pixels_are_missed() -> None:
    truth = segments(np.zeros((1, 8), dtype=np.int64), np.ones((1, 8), dtype=np.int64))
    nothing = segments(np.full((1, 8), CLASSES), np.zeros((1, 8), dtype=np.int64))
    assert counts_of((truth, nothing))[0, :3].tolist() == [0, 0, 1]
