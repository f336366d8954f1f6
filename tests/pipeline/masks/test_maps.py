"""Painted maps are those of pycocotools, and samples are pixels of them."""

from __future__ import annotations

import numpy as np
import pytest

from maskmill.pipeline.masks.maps import sampled_segment_map, sampled_size, segment_map, value_map
from maskmill.pipeline.masks.segments import segment_geometry
from tests.pipeline.masks.decoded import decode_segment_map

BLANK = 65535


def random_map(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(height).choice([2, 5, 9, BLANK], size=(-(-height // 5), -(-width // 5)))
    return np.kron(coarse, np.ones((5, 5), int))[:height, :width].astype(np.uint16)


@pytest.mark.parametrize("shape", [(7, 9), (60, 41), (1, 30)])
def test_values_are_those_of_pycocotools(shape: tuple[int, int]) -> None:
    truth = random_map(*shape)
    values = [int(value) for value in np.unique(truth) if value != BLANK]
    rles = segment_geometry(truth, values).rles
    assert np.array_equal(value_map(rles, values, BLANK, *shape), truth)
    assert np.array_equal(value_map(rles, values, BLANK, *shape), decode_segment_map(rles, *shape, values, BLANK))


def test_no_segment_is_a_blank_map() -> None:
    assert (segment_map([], 3, 4) == 0).all()
    assert value_map([], [], 255, 3, 4).tolist() == [[255] * 4] * 3


def test_samples_keep_the_aspect_and_are_pixels_of_the_map() -> None:
    truth = random_map(200, 100)
    values = [int(value) for value in np.unique(truth) if value != BLANK]
    rles = segment_geometry(truth, values).rles
    sampled = sampled_segment_map(rles, 200, 100, 40)
    assert sampled.shape == sampled_size(200, 100, 40) == (40, 20)
    assert np.array_equal(sampled, segment_map(rles, 200, 100)[2::5, 2::5])
    assert np.array_equal(sampled_segment_map(rles, 200, 100, 999), segment_map(rles, 200, 100))


def test_damaged_rles_are_refused() -> None:
    with pytest.raises(ValueError, match="RLE"):
        segment_map(["04"], 3, 4)
