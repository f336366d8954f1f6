"""How a mask transformer of ``transformers`` wants its pixels: size, padding, normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from maskmill.model.images.preprocess import SIZE_DIVISOR, normalise, padded_size
from maskmill.model.images.resize import require_image, resize


@dataclass(frozen=True, kw_only=True, slots=True)
class InputRules:
    """How pixels become a network's input.

    short_side, long_side: the image is resized to this short side, unless its long side would exceed the other; pixels.
    square: pad with black, right and bottom, to ``long_side`` x ``long_side`` before normalising (EoMT).
    stretch_to: round the resized size up to multiples of this, by stretching; 0 leaves it (Mask2Former, MaskFormer).
    mean, std: of RGB values 0..255.
    """

    short_side: int
    long_side: int
    square: bool
    stretch_to: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) an image is resized to, rounded as the library rounds."""
        shorter, longer = sorted((height, width))
        wanted: float = self.short_side
        if longer / shorter * self.short_side > self.long_side:
            wanted = self.long_side * shorter / longer
        small = round(wanted)
        large = longer if shorter == small else int(wanted * longer / shorter)
        small, large = max(1, small), max(1, large)
        size = (small, large) if height <= width else (large, small)
        if not self.stretch_to:
            return size
        rows, columns = (-(-side // self.stretch_to) * self.stretch_to for side in size)
        return rows, columns

    def prepare(self, image: np.ndarray) -> Tensor:
        """Return the network's input, float32 (3, H, W), for a uint8 (height, width, 3) RGB image."""
        require_image(image)
        height, width = self.size_of(image.shape[0], image.shape[1])
        if (height, width) != image.shape[:2]:
            image = resize(image, height, width)
        if self.square:
            side = self.long_side
            image = np.pad(image, ((0, side - height), (0, side - width), (0, 0)))
        pixels = normalise(image, self.mean, self.std)
        if self.square or self.stretch_to:
            return pixels
        rows, columns = padded_size([(height, width)])
        return F.pad(pixels, (0, columns - width, 0, rows - height))

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width), in pixels of the image given, of the area that the network's masks cover."""
        if self.square:
            return max(height, width), max(height, width)
        if self.stretch_to:
            return height, width
        resized = self.size_of(height, width)
        rows, columns = padded_size([resized])
        return round(rows * height / resized[0]), round(columns * width / resized[1])


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def input_rules(config: Mapping[str, Any], processor: Mapping[str, Any]) -> InputRules:
    """Return how pixels are prepared, from a checkpoint's config.json and preprocessor_config.json (may be empty)."""
    square = str(config["model_type"]).startswith("eomt")
    if square:
        side = config.get("image_size", 640)
        short_side = long_side = int(side if isinstance(side, int) else side[0])
    else:
        size = processor.get("size", {})
        # Old checkpoints have a plain number for the short side, and the limit beside it.
        if not isinstance(size, Mapping):
            size = {"shortest_edge": size, "longest_edge": processor.get("max_size")}
        short_side = int(size.get("shortest_edge") or 800)
        long_side = int(size.get("longest_edge") or processor.get("max_size") or 1333)
    stretched = config["model_type"] in ("mask2former", "maskformer")
    divisor = int(processor.get("size_divisor", processor.get("size_divisibility", SIZE_DIVISOR)))
    scale = 1 / float(processor.get("rescale_factor", 1 / 255))
    mean, std = processor.get("image_mean", _IMAGENET_MEAN), processor.get("image_std", _IMAGENET_STD)
    return InputRules(
        short_side=short_side,
        long_side=long_side,
        square=square,
        stretch_to=divisor if stretched else 0,
        mean=tuple(float(value) * scale for value in mean),
        std=tuple(float(value) * scale for value in std),
    )
