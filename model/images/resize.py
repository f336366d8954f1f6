"""How large an image is fed to the network, and resizing it so, as the release does. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

MAX_LONG_SIDE = 2560


def output_size(height: int, width: int, short_side: int, max_long_side: int = MAX_LONG_SIDE) -> tuple[int, int]:
    """Return the (height, width) to resize to: the short side as asked, unless the long one would exceed its limit.

    Rounds halves up, once, after both conditions, so a long side may end up to half a pixel's rounding at its limit.
    ValueError unless all four are positive.
    """
    if min(height, width, short_side, max_long_side) < 1:
        raise ValueError(
            f"sizes must be positive; got image {height}x{width}, short side {short_side}, at most {max_long_side}"
        )
    scale = short_side / min(height, width)
    new_height, new_width = (short_side, scale * width) if height < width else (scale * height, short_side)
    longest = max(new_height, new_width)
    if longest > max_long_side:
        shrink = max_long_side / longest
        new_height, new_width = new_height * shrink, new_width * shrink
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


@dataclass(frozen=True, slots=True)
class InputSize:
    """How large the model wants its images: short side in pixels, None to take them as they are, and the limit of the
    long one. ValueError unless both are positive.
    """

    short_side: int | None
    max_long_side: int = MAX_LONG_SIDE

    def __post_init__(self) -> None:
        for name, value in (("short_side", self.short_side), ("max_long_side", self.max_long_side)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}")

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Return a uint8 (H, W, 3) image at this size; an image that has it already comes back as it is."""
        if self.short_side is None:
            return image
        return resize_short_side(image, self.short_side, self.max_long_side)


AS_IT_IS = InputSize(None)


def resize_short_side(image: np.ndarray, short_side: int, max_long_side: int = MAX_LONG_SIDE) -> np.ndarray:
    """Resize a uint8 (H, W, 3) image to ``output_size`` with PIL's bilinear filter; uint8 (H', W', 3)."""
    require_image(image)
    height, width = output_size(image.shape[0], image.shape[1], short_side, max_long_side)
    return image if (height, width) == image.shape[:2] else resize(image, height, width)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a uint8 (H, W, 3) image with PIL's bilinear filter, which averages where it shrinks."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def require_image(image: np.ndarray) -> None:
    """Raise ValueError unless ``image`` is a non-empty uint8 (H, W, 3) array."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"an image must be a non-empty uint8 array (height, width, 3); got {image.dtype} {image.shape}"
        )
