"""From pixels to the network's input: resizing, normalising and padding as the release does.

Images are uint8 (H, W, 3) RGB arrays outside and float32 (3, H, W) tensors inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

PIXEL_MEAN = (123.675, 116.280, 103.530)
PIXEL_STD = (58.395, 57.120, 57.375)
"""Mean and deviation of ImageNet's RGB values, 0..255 (the segmentation network's normalisation)."""

CLIP_MEAN = (122.7709383, 116.7460125, 104.09373615)
CLIP_STD = (68.5005327, 66.6321579, 70.3231630)
"""CLIP's own normalisation, RGB 0..255."""

SIZE_DIVISOR = 32
"""Padded sizes are multiples of the backbone's coarsest stride."""

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


def resize_short_side(image: np.ndarray, short_side: int, max_long_side: int = MAX_LONG_SIDE) -> np.ndarray:
    """Resize a uint8 (H, W, 3) image to ``output_size`` with PIL's bilinear filter; uint8 (H', W', 3)."""
    _require_image(image)
    height, width = output_size(image.shape[0], image.shape[1], short_side, max_long_side)
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def normalise(image: np.ndarray, mean: Sequence[float] = PIXEL_MEAN, std: Sequence[float] = PIXEL_STD) -> Tensor:
    """Return (image - mean) / std of a uint8 (H, W, 3) RGB image as float32 (3, H, W)."""
    _require_image(image)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32, order="C"))
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def pad_to_multiple(images: Sequence[Tensor], multiple: int = SIZE_DIVISOR) -> Tensor:
    """Pad (3, H_i, W_i) images with 0, right and bottom, to one size; (B, 3, H, W).

    H and W are the largest of the images' sizes rounded up to ``multiple``.
    """
    if not images:
        raise ValueError("no images to pad")
    height, width = (-(-max(image.shape[axis] for image in images) // multiple) * multiple for axis in (-2, -1))
    return torch.stack([F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in images])


def _require_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"an image must be a non-empty uint8 array (height, width, 3); got {image.dtype} {image.shape}"
        )
