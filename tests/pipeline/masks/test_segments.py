"""The RLEs, areas and boxes we write are those pycocotools finds in the masks themselves."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskmill.pipeline.masks.segments import segment_geometry
from tests.pipeline.masks.decoded import decode_segment_map

BLANK = 65535


def random_map(height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 3, 7, 300, BLANK], size=(-(-height // 4), -(-width // 4)))
    return np.kron(coarse, np.ones((4, 4), int))[:height, :width].astype(np.uint16)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (20, 1), (5, 7), (128, 128), (333, 97)])
def test_geometry_is_that_of_each_mask(shape: tuple[int, int]) -> None:
    segment_map = random_map(*shape, seed=sum(shape))
    values = [int(value) for value in np.unique(segment_map)]
    geometry = segment_geometry(segment_map, values)
    for value, rle, area, box in zip(values, geometry.rles, geometry.areas, geometry.boxes, strict=True):
        expected = coco_mask.encode(np.asfortranarray((segment_map == value).astype(np.uint8)))
        assert rle == expected["counts"].decode()
        assert area == int((segment_map == value).sum())
        assert box == [int(edge) for edge in coco_mask.toBbox(expected)]


def test_decoding_gives_the_map_back() -> None:
    segment_map = random_map(40, 60, seed=1)
    values = [int(value) for value in np.unique(segment_map) if value != BLANK]
    geometry = segment_geometry(segment_map, values)
    assert np.array_equal(decode_segment_map(geometry.rles, 40, 60, values, BLANK), segment_map)


def test_a_value_without_pixels_is_an_error() -> None:
    with pytest.raises(ValueError, match="9 has no pixel"):
        segment_geometry(np.zeros((4, 4), np.uint16), [9])
