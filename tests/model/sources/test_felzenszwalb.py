"""Regions that need no weights."""

from __future__ import annotations

import numpy as np
import torch
from skimage import data

from maskmill.model.sources.felzenszwalb import STRIDE, SURE, FelzenszwalbSource, RegionSettings


def test_two_colours_are_two_regions_that_share_the_picture() -> None:
    image = np.zeros((40, 62, 3), np.uint8)
    image[:, 20:] = (250, 20, 20)
    [own] = FelzenszwalbSource(RegionSettings(least_share=0.05))([image])
    assert own.padded_size == (40, 64)
    assert own.image_size == (40, 62)
    assert own.mask_logits.shape == (2, 40 // STRIDE, 64 // STRIDE)
    left, right = own.mask_logits
    assert (left[:, :5] == SURE).all()
    assert (right[:, 5:15] == SURE).all()
    assert torch.equal(left[:, :15], -right[:, :15])
    assert own.objectness is not None
    assert own.objectness.tolist() == [1, 1]


def test_a_photograph_has_at_most_as_many_regions_as_asked_for() -> None:
    source = FelzenszwalbSource(RegionSettings(most_segments=12))
    regions = source.regions(data.astronaut())
    assert 1 < len(np.unique(regions)) <= 12
    [own], [again] = source([data.astronaut()]), source([data.astronaut(), data.chelsea()])[:1]
    assert torch.equal(own.mask_logits, again.mask_logits)
