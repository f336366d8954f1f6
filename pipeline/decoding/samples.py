"""Brings samples of more than 8 bits to 8: integers keep their upper bits, floats are scaled from a declared range."""

from __future__ import annotations

import io
import sys

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from maskmill.pipeline.errors import BadImageError

FULL_BITS = 16
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
_LEAST_SAMPLE, _GREATEST_SAMPLE = 340, 341
_WHITE_IS_ZERO = 0
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
"""Byte order of samples, as the last letter of Pillow's raw modes such as RGB;16L -> the letter of the other order."""


def is_deep(mode: str) -> bool:
    """Whether Pillow's ``mode`` has more than 8 bits a sample."""
    return mode.startswith("I") or mode == "F"


class DeepGrey:
    """Brings one grey image with deep samples to 8 bits; made from the image's header, applied to its bands.

    bits: how many bits of 16-bit samples are used, unless the file declares fewer. Integers keep the upper 8 of these
    bits; larger values become white. Floats are scaled from the range that a TIFF declares (SMinSampleValue,
    SMaxSampleValue), or from 0..1.
    """

    def __init__(self, image: Image.Image, bits: int = FULL_BITS) -> None:
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
        declared = tags.get(_BITS_PER_SAMPLE, (FULL_BITS,))[0]
        self._bits = declared if 8 < declared < FULL_BITS else bits
        self._white_is_zero = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        self._low = _number(tags.get(_LEAST_SAMPLE), 0.0)
        self._high = _number(tags.get(_GREATEST_SAMPLE), 1.0)

    def __call__(self, band: Image.Image) -> Image.Image:
        """Return ``band`` as 8-bit grey. Raises BadImageError "unsupported" if values have no defined brightness."""
        samples = np.asarray(band)
        grey = self._from_floats(samples) if samples.dtype.kind == "f" else self._from_integers(samples)
        return Image.fromarray((255 - grey) if self._white_is_zero else grey)

    def _from_floats(self, samples: np.ndarray) -> np.ndarray:
        low, high = self._low, self._high
        if not (high > low and np.isfinite(samples).all() and samples.min() >= low and samples.max() <= high):
            raise BadImageError(
                "decode",
                "unsupported",
                f"floating-point samples of {samples.min():g} to {samples.max():g}, outside {low:g} to {high:g}, have "
                "no defined brightness; the TIFF tags SMinSampleValue and SMaxSampleValue can declare their range",
            )
        return np.rint((samples - low) * (255 / (high - low))).astype(np.uint8)

    def _from_integers(self, samples: np.ndarray) -> np.ndarray:
        if samples.min() < 0 or samples.max() >= 2**FULL_BITS:
            raise BadImageError(
                "decode", "unsupported", "integer samples of more than 16 bits have no defined brightness"
            )
        return np.minimum(samples >> (self._bits - 8), 255).astype(np.uint8)


def _number(value: object, default: float) -> float:
    first = value[0] if isinstance(value, tuple) and value else value
    return float(first) if isinstance(first, (int, float)) else default


def with_fewer_bits(data: bytes, image: ImageFile.ImageFile, bits: int) -> Image.Image:
    """Return the 8-bit image of a 16-bit colour file that uses only the lower ``bits`` of its samples.

    image: opened from ``data``, not loaded. Pillow keeps the upper byte of each sample, so the file is decoded a second
    time in the other byte order, which gives the lower bytes. Other images are returned unchanged. Raises BadImageError
    "unsupported" where Pillow cannot decode the file so.
    """
    if bits == FULL_BITS or is_deep(image.mode) or not any(";16" in _raw_mode(tile) for tile in image.tile):
        return image
    assert image.format is not None
    lower = Image.open(io.BytesIO(data), formats=(image.format,))
    lower.tile = [_in_other_order(tile) for tile in lower.tile]
    image.load()
    try:
        lower.load()
    except ValueError as error:
        message = f"{bits} bits in 16 cannot be read of this kind of {image.format} ({image.mode})"
        raise BadImageError("decode", "unsupported", message) from error
    samples = (np.asarray(image).astype(np.uint16) << 8) | np.asarray(lower)
    result = Image.fromarray(np.minimum(samples >> (bits - 8), 255).astype(np.uint8), mode=image.mode)
    result.info = image.info
    return result


def _raw_mode(tile: ImageFile._Tile) -> str:
    args = tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args
    return args if isinstance(args, str) else ""


def _in_other_order(tile: ImageFile._Tile) -> ImageFile._Tile:
    raw_mode = _raw_mode(tile)
    swapped = raw_mode[:-1] + _OTHER_ORDER.get(raw_mode[-1:], "")
    return tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
