"""Segments without any weights: Felzenszwalb and Huttenlocher's graph-based regions (IJCV 2004), from scikit-image.

They follow colour, not things, so names on them are poor. They work anywhere, and any network has to beat them.

Legend for shapes: Q segments, h x w mask cells (stride 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from maskmill.model.images.resize import AS_IT_IS, InputSize, require_image
from maskmill.model.proposals import Proposals
from maskmill.model.sources.source import SourceDescription

STRIDE = 4
SURE = 8.0
"""Largest absolute mask logit; a cell that lies wholly inside a segment has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionSettings:
    """scale: larger gives larger segments. sigma: of the smoothing before, pixels. least_share: of the picture that a
    segment has at least, 0..1. most_segments: the scale is doubled until there are at most so many.
    """

    scale: float = 200.0
    sigma: float = 0.8
    least_share: float = 0.001
    most_segments: int = 100


class FelzenszwalbSource:
    """Images -> regions of similar colour, each certain and each pixel in exactly one. Runs on the CPU."""

    embedding_dim: int | None = None
    names: tuple[str, ...] | None = None

    def __init__(self, settings: RegionSettings | None = None, input_size: InputSize = AS_IT_IS) -> None:
        self.settings = settings or RegionSettings()
        self.input_size = input_size

    def __call__(self, images: Sequence[np.ndarray], *, independent: bool = True) -> list[Proposals]:
        """Propose segments of uint8 (H, W, 3) RGB images, each by itself whatever ``independent`` says."""
        return [self._propose(self.input_size.resize(image)) for image in images]

    def regions(self, image: np.ndarray) -> np.ndarray:
        """Return (H, W) int64 numbers of regions from 0, at most ``most_segments`` of them."""
        require_image(image)
        felzenszwalb = _require_scikit_image()
        settings, scale = self.settings, self.settings.scale
        least = max(1, int(settings.least_share * image.shape[0] * image.shape[1]))
        while True:
            regions = felzenszwalb(image, scale=scale, sigma=settings.sigma, min_size=least)
            if regions.max() < settings.most_segments:
                return regions
            # Both grow: the scale alone never joins regions of strong contrast.
            scale, least = 2 * scale, 2 * least

    def _propose(self, image: np.ndarray) -> Proposals:
        height, width = image.shape[:2]
        padded = (-(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE)
        regions = torch.from_numpy(self.regions(image))
        masks = []
        for number in range(int(regions.max()) + 1):
            inside = F.pad((regions == number).float(), (0, padded[1] - width, 0, padded[0] - height))
            share = F.avg_pool2d(inside[None], STRIDE)[0]
            masks.append(share.logit(1e-6).clamp(-SURE, SURE))
        return Proposals(
            mask_logits=torch.stack(masks),
            query_embeddings=None,
            no_object_logits=None,
            objectness=torch.ones(len(masks)),
            image_size=(height, width),
            padded_size=padded,
        )


def describe(folder: str = "") -> SourceDescription:
    """Return what this source gives; ``folder`` is not looked at, since there are no weights."""
    return SourceDescription(has_queries=False, names=None)


def load(folder: str = "", *, input_size: InputSize = AS_IT_IS, **settings: object) -> FelzenszwalbSource:
    """Return the source; device and precision mean nothing to it. ImportError names the extra that it needs."""
    _require_scikit_image()
    return FelzenszwalbSource(input_size=input_size)


def _require_scikit_image() -> Any:
    try:
        from skimage.segmentation import felzenszwalb
    except ImportError as error:
        raise ImportError("this proposer needs scikit-image: pip install 'maskmill[photo]'") from error
    return felzenszwalb
