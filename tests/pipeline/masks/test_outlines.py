"""Outlines enclose exactly the pixels of their mask, whatever its holes and corners."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.draw import polygon2mask

from maskmill.pipeline.masks.outlines import polygons, ring_area, trace_rings

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def filled(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centre a polygon encloses."""
    return polygon2mask(shape, ring[:, ::-1] - 0.5)


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_rings_have_the_area_of_the_mask(mask: np.ndarray) -> None:
    rings = trace_rings(mask)
    assert sum(ring_area(ring) for ring in rings) == mask.sum()
    for ring in rings:
        steps = np.abs(np.roll(ring, -1, axis=0) - ring)
        assert ((steps == 0).sum(axis=1) == 1).all(), "edges are level or upright"


@settings(max_examples=200, deadline=None)
@given(MASKS, st.booleans())
def test_polygons_have_the_area_and_the_pixels_of_the_mask(mask: np.ndarray, join: bool) -> None:
    found = polygons(mask, join=join)
    assert sum(ring_area(ring) for ring in found) == pytest.approx(mask.sum())
    painted = np.zeros(mask.shape, int)
    for ring in found:
        painted += filled(ring, mask.shape)
    assert np.array_equal(painted, mask.astype(int))


def test_parts_are_polygons_of_their_own_unless_joined() -> None:
    mask = np.zeros((5, 9), bool)
    mask[1:4, 1:4] = mask[0, 6] = mask[4, 8] = True
    assert len(polygons(mask, join=False)) == 3
    assert len(polygons(mask, join=True)) == 1


def test_a_hole_runs_the_other_way_round() -> None:
    mask = np.ones((3, 3), bool)
    mask[1, 1] = False
    assert sorted(ring_area(ring) for ring in trace_rings(mask)) == [-1, 9]


def test_pixels_that_touch_at_a_corner_are_two_rings() -> None:
    assert len(trace_rings(np.eye(2, dtype=bool))) == 2


def test_an_empty_mask_has_no_outline() -> None:
    assert trace_rings(np.zeros((3, 3), bool)) == []
    assert polygons(np.zeros((3, 3), bool), join=True) == []
