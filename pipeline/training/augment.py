"""Random views of a training image with its label map: scaled, cropped, flipped, and changed in colour."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance
from pydantic import BaseModel, ConfigDict, Field

from maskmill.model.images.resize import output_size
from maskmill.pipeline.masks.maps import resize_nearest

PAD_VALUE = 128
"""The grey that images are padded with in training, as in the release; at inference it is the mean colour."""


class AugmentSettings(BaseModel):
    """How images are varied. The defaults are those of the release."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    short_side: int = Field(640, ge=32, description="Short side of an image before the scale jitter.")
    crop: int = Field(640, ge=32, multiple_of=32, description="Side of the square the network is fed.")
    scale_least: float = Field(0.5, gt=0, description="Smallest factor of the scale jitter.")
    scale_most: float = Field(1.5, gt=0, description="Largest factor of the scale jitter.")
    flip: bool = Field(True, description="Mirror half of the images.")
    brightness: float = Field(0.125, ge=0, lt=1, description="Largest relative change of brightness.")
    contrast: float = Field(0.5, ge=0, lt=1, description="Largest relative change of contrast.")
    saturation: float = Field(0.5, ge=0, lt=1, description="Largest relative change of saturation.")
    recoloured_share: float = Field(
        0.0, ge=0, le=1, description="Share of images shown in wrong colours, to learn masks from but not names."
    )


def is_recoloured(settings: AugmentSettings, seed: int) -> bool:
    """Return whether the view of this seed is recoloured."""
    return bool(np.random.default_rng((seed, 1)).random() < settings.recoloured_share)


def augment(
    image: np.ndarray, label: np.ndarray, settings: AugmentSettings, pad_label: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random view: (crop, crop, 3) uint8 and (crop, crop) int64, padded with grey and ``pad_label``.

    image: (H, W, 3) uint8 RGB. label: (H, W) int64. The same seed gives the same view.
    """
    rng = np.random.default_rng(seed)
    if is_recoloured(settings, seed):
        image = _recoloured(image, np.random.default_rng((seed, 2)))
    picture = _coloured(Image.fromarray(image), settings, rng)
    short_side = max(1, round(settings.short_side * rng.uniform(settings.scale_least, settings.scale_most)))
    height, width = output_size(image.shape[0], image.shape[1], short_side)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    labels = resize_nearest(label, height, width)
    top, left = (int(rng.integers(max(side - settings.crop, 0) + 1)) for side in (height, width))
    pixels = pixels[top : top + settings.crop, left : left + settings.crop]
    labels = labels[top : top + settings.crop, left : left + settings.crop]
    if settings.flip and rng.random() < 0.5:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    missing = [(0, settings.crop - side) for side in labels.shape]
    pixels = np.pad(pixels, (*missing, (0, 0)), constant_values=PAD_VALUE)
    return pixels, np.pad(labels, missing, constant_values=pad_label)


def _coloured(picture: Image.Image, settings: AugmentSettings, rng: np.random.Generator) -> Image.Image:
    changes = (
        (ImageEnhance.Brightness, settings.brightness),
        (ImageEnhance.Contrast, settings.contrast),
        (ImageEnhance.Color, settings.saturation),
    )
    for enhancer, most in changes:
        if most:
            picture = enhancer(picture).enhance(1 + rng.uniform(-most, most))
    return picture


def _recoloured(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn the hues of an image by a random angle and change its saturation, down to grey or to a negative.

    Every segment stays one segment while its colour changes, so that grouping does not learn the colours of seen
    classes.
    """
    grey = image.astype(np.float32).mean(axis=2, keepdims=True)
    angle, colourfulness = rng.uniform(0, 2 * np.pi), max(0.0, rng.uniform(-0.4, 1.6))
    # A rotation about the grey axis mixes the channels by three weights, shifted from channel to channel.
    thirds = angle + np.array([0, 2, 4]) * np.pi / 3
    weights = 2 / 3 * np.cos(thirds)
    turn = np.stack([np.roll(weights, shift) for shift in range(3)]).astype(np.float32)
    turned = grey + colourfulness * ((image - grey) @ turn.T)
    if rng.random() < 0.25:
        turned = 255 - turned
    return np.clip(turned, 0, 255).astype(np.uint8)
