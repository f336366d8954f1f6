"""Resizing, normalising and padding equal the release's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.model.clip.input import ClipInput
from maskmill.model.images import preprocess, resize


def test_output_sizes_equal_the_release(golden):
    cases = golden("preprocess")["output_shapes_min_max_h_w_newh_neww"]
    assert len(cases) == 24
    for short_side, max_long_side, height, width, new_height, new_width in cases.tolist():
        assert resize.output_size(height, width, short_side, max_long_side) == (new_height, new_width)


@pytest.mark.parametrize("case", range(4))
def test_resized_pixels_equal_the_release(golden, case):
    arrays = golden("preprocess")
    expected = arrays[f"resized{case}_chw"].transpose(1, 2, 0)
    resized = resize.resize_short_side(arrays[f"raw{case}"], short_side=64, max_long_side=100)
    np.testing.assert_array_equal(resized, expected)


def test_normalise_uses_channel_statistics():
    image = np.full((2, 3, 3), (124, 0, 255), dtype=np.uint8)
    normalised = preprocess.normalise(image)
    assert normalised.shape == (3, 2, 3)
    assert normalised.dtype == torch.float32
    expected = [(124 - 123.675) / 58.395, -116.28 / 57.12, (255 - 103.53) / 57.375]
    torch.testing.assert_close(normalised[:, 1, 2], torch.tensor(expected))
    clip = ClipInput().normalise(image)
    torch.testing.assert_close(clip[1, 0, 0], torch.tensor(-116.7460125 / 66.6321579))


def test_padding_is_zero_right_and_bottom_to_the_largest_image():
    small, large = torch.ones(3, 5, 40), torch.ones(3, 33, 7)
    padded = preprocess.pad_to_multiple([small, large])
    assert padded.shape == (2, 3, 64, 64)
    for image, original in zip(padded, (small, large), strict=True):
        height, width = original.shape[1:]
        assert image[:, :height, :width].eq(1).all()
        assert image.sum() == original.sum()
    assert preprocess.pad_to_multiple([torch.ones(3, 32, 64)]).shape == (1, 3, 32, 64)


def test_halves_are_rounded_up():
    assert resize.output_size(2, 5, 1) == (1, 3)
    assert resize.output_size(5, 2, 1) == (3, 1)


def test_extreme_shapes_keep_at_least_one_pixel():
    assert resize.output_size(10_000, 1, 640, 2560) == (2560, 1)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match="must be a non-empty uint8 array"):
        resize.resize_short_side(image, 64)


@settings(max_examples=2000, deadline=None)
@given(*[st.integers(1, 5000)] * 4)
def test_a_size_is_kept_when_it_is_asked_for_again(
    height: int, width: int, short_side: int, max_long_side: int
) -> None:
    """A picture goes through the same rule in the reading, in the segmenter and in the proposer."""
    once = resize.output_size(height, width, short_side, max_long_side)
    assert resize.output_size(*once, short_side, max_long_side) == once


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_a_resized_image_comes_back_as_it_is(height: int, width: int, short_side: int, max_long_side: int) -> None:
    size = resize.InputSize(short_side, max_long_side)
    once = size.resize(np.zeros((height, width, 3), np.uint8))
    assert size.resize(once) is once
