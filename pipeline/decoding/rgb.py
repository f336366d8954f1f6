"""Turns decoded images of every mode into RGB: 8 bits a sample, in sRGB, with transparency laid over white."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFile

from maskmill.pipeline.decoding.colour import ToRgb, to_srgb
from maskmill.pipeline.decoding.samples import DeepGrey, is_deep

_BAND_PIXELS = 8_000_000


def rgb_array(image: Image.Image, source: ImageFile.ImageFile, sample_bits: int) -> np.ndarray:
    """Return a loaded image, not turned, as (H, W, 3) uint8. Raises BadImageError as `DeepGrey` does.

    The work is done in bands of rows, so that a large image needs little memory besides itself and the result. source:
    the file of the image, for its header.
    """
    convert = _band_converter(image, source, sample_bits)
    width, height = image.size
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.asarray(convert(band))
    return pixels


def _band_converter(image: Image.Image, source: ImageFile.ImageFile, sample_bits: int) -> ToRgb:
    """Return a function from a band of ``image`` to RGB: 8 bits a sample, in sRGB, transparency over white."""
    mode = image.mode
    profile = image.info.get("icc_profile")
    if is_deep(mode):
        grey, colour = DeepGrey(source, sample_bits), to_srgb("L", profile) or _plain_rgb
        return lambda band: colour(grey(band))
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        colour = to_srgb("RGB", profile) or _plain_rgb
        if source.format == "BMP" and _is_blank(image):
            # Programs without transparency leave the fourth byte of a pixel zero, so all-zero means opaque.
            return lambda band: colour(band.convert("RGB"))
        return lambda band: _over_white(band.convert("RGBA"), colour)
    kept = mode in ("L", "CMYK", "LAB")
    colour = to_srgb(mode if kept else "RGB", profile) or _plain_rgb
    return colour if kept else lambda band: colour(band.convert("RGB"))


def _is_blank(image: Image.Image) -> bool:
    return image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


def _plain_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _over_white(image: Image.Image, colour: ToRgb) -> Image.Image:
    canvas = Image.new("RGB", image.size, (255, 255, 255))
    canvas.paste(colour(image.convert("RGB")), mask=image.getchannel("A"))
    return canvas
