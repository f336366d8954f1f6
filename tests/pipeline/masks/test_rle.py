from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from maskmill.pipeline.masks.rle import SegmentRuns, parse_runs
from tests.pipeline.evaluation.handmade import encode

label_maps = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 3))


def parse(texts_per_image: list[list[str]], shapes: list[tuple[int, int]]) -> SegmentRuns:
    texts = [text.encode() for texts in texts_per_image for text in texts]
    return parse_runs(
        np.frombuffer(b"".join(texts), np.uint8),
        np.cumsum([len(text) for text in texts], dtype=np.int64),
        np.array([len(texts) for texts in texts_per_image]),
        np.array([height * width for height, width in shapes]),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(label_maps, min_size=1, max_size=5), st.integers(0, 3))
def test_painted_segments_are_what_pycocotools_decodes(maps: list[np.ndarray], unlabelled: int) -> None:
    values = [[value for value in np.unique(labels) if value != unlabelled] for labels in maps]
    texts = [[encode(labels == value) for value in own] for labels, own in zip(maps, values, strict=True)]
    runs = parse(texts, [labels.shape for labels in maps])
    for i, (labels, own) in enumerate(zip(maps, values, strict=True)):
        expected = np.full(labels.shape, len(own), dtype=np.uint16)
        for number, text in enumerate(texts[i]):
            rle = {"size": list(labels.shape), "counts": text.encode()}
            expected[coco_mask.decode(rle).astype(bool)] = number
        painted = runs.paint(i, labels.size, len(own))
        assert np.array_equal(painted.reshape(labels.shape[::-1]).T, expected)
        assert set(np.unique(painted)) <= {*range(len(own)), len(own)}


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (700, 900)])
def test_full_empty_and_large_masks(shape: tuple[int, int]) -> None:
    full, empty = np.ones(shape, bool), np.zeros(shape, bool)
    runs = parse([[encode(full)], [encode(empty)], []], [shape] * 3)
    pixels = shape[0] * shape[1]
    assert runs.paint(0, pixels, 1).sum() == 0
    assert runs.paint(1, pixels, 1).sum() == pixels
    assert runs.paint(2, pixels, 0).sum() == 0


def test_segments_that_share_a_pixel_are_refused() -> None:
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1:3] = True
    runs = parse([[encode(mask), encode(mask)]], [(4, 4)])
    with pytest.raises(ValueError, match="share pixels"):
        runs.paint(0, 16, 2)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "empty"),
        ("é", "alphabet"),
        ("o", "middle of a number"),
        ("5", "covers 5 pixels of an image that has 16"),
        ("O?", "negative count"),
        ("o" * 12 + "0", "60 bits"),
    ],
)
def test_damaged_texts_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse([[text]], [(4, 4)])
