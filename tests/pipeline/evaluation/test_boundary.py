from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskmill.pipeline.evaluation.boundary import boundary_counts, f_measure, tolerance_radius
from tests.pipeline.evaluation.handmade import blobs

CLASSES = 4


def by_distance_transform(truth: np.ndarray, predicted: np.ndarray, radius: int) -> np.ndarray:
    """Compute the same counts class by class, from scipy's distances and a loop over neighbours."""
    ignored = truth == CLASSES
    counts = np.zeros((CLASSES, 4), dtype=np.int64)
    for class_id in range(CLASSES):
        borders = [border(labels, ignored, class_id) for labels in (predicted, truth)]
        for own, other, column in ((borders[0], borders[1], 0), (borders[1], borders[0], 2)):
            near = ndimage.distance_transform_edt(~other) <= radius if other.any() else np.zeros_like(own)
            counts[class_id, column] = (own & near).sum()
            counts[class_id, column + 1] = own.sum()
    return counts


def border(labels: np.ndarray, ignored: np.ndarray, class_id: int) -> np.ndarray:
    found = np.zeros(labels.shape, dtype=bool)
    for y, x in np.argwhere((labels == class_id) & ~ignored):
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            v, u = y + dy, x + dx
            if 0 <= v < labels.shape[0] and 0 <= u < labels.shape[1] and not ignored[v, u]:
                found[y, x] |= labels[v, u] != class_id
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 14), st.booleans())
def test_agreement_with_distance_transforms(seed: int, radius: int, with_gaps: bool) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = blobs(rng, CLASSES + with_gaps), blobs(rng, CLASSES + with_gaps)
    ours = boundary_counts(truth.astype(np.uint16), predicted.astype(np.uint16), CLASSES, radius)
    assert np.array_equal(ours, by_distance_transform(truth, predicted, radius))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 14), st.integers(1, 600), st.booleans())
def test_strips_of_any_size_count_alike(seed: int, radius: int, strip_pixels: int, with_gaps: bool) -> None:
    rng = np.random.default_rng(seed)
    maps = [blobs(rng, CLASSES + with_gaps).astype(np.uint16) for _ in range(2)]
    whole = boundary_counts(*maps, CLASSES, radius)
    assert np.array_equal(boundary_counts(*maps, CLASSES, radius, strip_pixels), whole)


def test_a_border_within_tolerance_is_found_and_one_beyond_is_not() -> None:
    truth = np.zeros((10, 40), dtype=np.uint16)
    truth[:, 20:] = 1
    for shift, f in ((0, 1.0), (2, 1.0), (3, 0.0)):
        counts = boundary_counts(truth, np.roll(truth, shift, axis=1) if shift else truth, CLASSES, 2)
        # Rolling also makes a border at the left edge, and no true border is near that one.
        own = counts if not shift else boundary_counts(truth, shifted(truth, shift), CLASSES, 2)
        np.testing.assert_allclose(f_measure(own)[:2], [f, f])


def shifted(labels: np.ndarray, columns: int) -> np.ndarray:
    return np.concatenate([np.repeat(labels[:, :1], columns, axis=1), labels[:, :-columns]], axis=1)


def test_f_of_one_side_is_zero_and_of_none_undefined() -> None:
    counts = np.array([[0, 5, 0, 0], [0, 0, 0, 5], [0, 0, 0, 0], [3, 4, 1, 2]])
    np.testing.assert_allclose(f_measure(counts), [0, 0, np.nan, 2 * 0.75 * 0.5 / 1.25])


@pytest.mark.parametrize("height, width, radius", [(128, 128, 1), (512, 512, 5), (10, 10, 1), (480, 640, 6)])
def test_tolerance_follows_the_diagonal(height: int, width: int, radius: int) -> None:
    assert tolerance_radius(height, width, 0.0075) == radius
