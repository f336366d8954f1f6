"""Colours of classes: the vocabulary's own first, then ones that differ."""

from __future__ import annotations

from itertools import pairwise

from maskmill.pipeline.pictures.palette import DISTINCT, class_colours


def test_given_colours_are_kept_and_the_others_made() -> None:
    assert class_colours([None, [1, 2, 3], None]) == [DISTINCT[0], (1, 2, 3), DISTINCT[2]]


def test_a_thousand_classes_have_colours_of_their_own() -> None:
    colours = class_colours([None] * 1000)
    # Not every hue exists at every lightness: some are clipped to the same sRGB value.
    assert len(set(colours)) > 850
    assert all(0 <= part <= 255 for colour in colours for part in colour)
    neighbours = [sum(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in pairwise(colours)]
    assert min(neighbours) > 40, "neighbouring ids must be told apart"
