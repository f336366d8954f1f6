"""How a CLIP's image tower wants its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
from torch import Tensor

from maskmill.model.images.preprocess import normalise


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipInput:
    """How pixels become the image tower's input. The defaults are those of OpenAI's CLIPs.

    mean, std: of RGB values 0..255. interpolation: "bilinear" or "bicubic", for an image that is resized as a whole.
    """

    mean: tuple[float, ...] = (122.7709383, 116.7460125, 104.09373615)
    std: tuple[float, ...] = (68.5005327, 66.6321579, 70.3231630)
    interpolation: str = "bilinear"

    def normalise(self, image: np.ndarray) -> Tensor:
        """Return a uint8 (H, W, 3) RGB image as float32 (3, H, W), normalised for the tower; 0 is its mean colour."""
        return normalise(image, self.mean, self.std)

    @classmethod
    def of_open_clip(cls, settings: Mapping[str, Any]) -> ClipInput:
        """Return what open_clip's preprocessing settings (mean and std of 0..1, interpolation) mean here."""
        mean = tuple(settings.get("mean") or open_clip.OPENAI_DATASET_MEAN)
        std = tuple(settings.get("std") or open_clip.OPENAI_DATASET_STD)
        interpolation = "bicubic" if settings.get("interpolation") == "bicubic" else "bilinear"
        # The defaults are kept to the last digit, which 255 times open_clip's rounded values would not be.
        is_openai = (mean, std) == (tuple(open_clip.OPENAI_DATASET_MEAN), tuple(open_clip.OPENAI_DATASET_STD))
        if is_openai:
            return cls(interpolation=interpolation)
        return cls(
            mean=tuple(255 * float(value) for value in mean),
            std=tuple(255 * float(value) for value in std),
            interpolation=interpolation,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClipInput:
        """Return the inverse of ``dataclasses.asdict``; keys that are missing take their defaults."""
        default = cls()
        return cls(
            mean=tuple(values.get("mean", default.mean)),
            std=tuple(values.get("std", default.std)),
            interpolation=values.get("interpolation", default.interpolation),
        )
