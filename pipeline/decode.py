"""Encoded image bytes to RGB pixels: every format and oddity of real buckets, and every damage as a BadImageError."""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from pipeline.errors import BadImageError

MAX_PIXELS = 178_000_000
"""Default limit, a little below Pillow's own hard limit of 178,956,970 pixels."""

_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""What is decoded. Pillow knows some fifty more; each is code that reads untrusted bytes, so they stay off."""

_PILLOW_LIMIT = threading.Lock()
_ORIENTATION_TAG = 0x0112
_BAND_PIXELS = 8_000_000
_OTHER_FORMATS = (
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "gzip data"),
    (b"PK\x03\x04", "a zip archive"),
    (b"8BPS", "a Photoshop file"),
    (b"\x00\x00\x00\x0cjP", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
)


REDUCED_AT_LEAST = 2
"""A JPEG decoded at a reduced scale stays this much larger than what it is then resized to, so that the resizing's own
filter decides how the result looks."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """pixels: (H, W, 3) uint8 RGB, upright. height, width: of the stored image, upright; more than H and W where it
    was decoded at a reduced scale."""

    pixels: np.ndarray
    height: int
    width: int


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode JPEG, PNG, WebP, TIFF, BMP or GIF (its first frame) to (H, W, 3) uint8 RGB, upright.

    EXIF orientation is applied; transparency is laid over white; 16-bit samples keep their upper byte; grey, palette
    and CMYK images are converted. ``max_pixels`` is checked before any pixel is decoded.

    Raises BadImageError (stage "decode") with error_class "empty", "not_an_image", "markup" (XML, SVG, HTML),
    "unsupported", "too_many_pixels", "truncated" or "corrupt". Nothing else escapes but MemoryError.
    """
    return decode_for(data, None, max_pixels=max_pixels).pixels


def decode_for(
    data: bytes, size_wanted: Callable[[int, int], tuple[int, int]] | None, *, max_pixels: int = MAX_PIXELS
) -> DecodedImage:
    """Decode as :func:`decode_image` for a use at ``size_wanted(height, width)``; None for the full size.

    JPEGs much larger than that are decoded at a half, quarter or eighth of their scale, which takes a fraction of time
    and memory, and stay at least ``REDUCED_AT_LEAST`` times as large as wanted. Raises as :func:`decode_image`.
    """
    if not data:
        raise _bad("empty", "no bytes")
    try:
        with _pillow_limited(max_pixels):
            return _decode(data, max_pixels, size_wanted)
    except (BadImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _bad("too_many_pixels", f"more than the limit of {max_pixels} pixels") from error
    except Exception as error:
        # A pure function of the bytes: whatever Pillow raises, the reason lies in them.
        raise _damage(error) from error


@contextmanager
def _pillow_limited(max_pixels: int) -> Iterator[None]:
    """Let Pillow refuse more pixels while opening, before some formats allocate their canvas; and keep its warnings.

    Its limit and the warning filters belong to the whole process, so threads decode one after the other.
    """
    with _PILLOW_LIMIT, warnings.catch_warnings():
        # Pillow warns of large images and odd metadata, which are either fine here or errors to the caller.
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max(1, -(-max_pixels // 2))  # it refuses twice this number
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _bad(error_class: str, message: str) -> BadImageError:
    return BadImageError("decode", error_class, message)


def _damage(error: Exception) -> BadImageError:
    text = str(error) or type(error).__name__
    truncated = isinstance(error, EOFError) or "truncated" in text.lower() or "unexpected end" in text.lower()
    return _bad("truncated" if truncated else "corrupt", text)


def _decode(data: bytes, max_pixels: int, size_wanted: Callable[[int, int], tuple[int, int]] | None) -> DecodedImage:
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise _not_an_image(data) from error
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise _bad("too_many_pixels", f"{width} x {height} is more than the limit of {max_pixels} pixels")
        if size_wanted is not None and image.format == "JPEG":
            wanted = size_wanted(width, height)[::-1] if _is_turned(image) else size_wanted(height, width)
            image.draft(None, (REDUCED_AT_LEAST * wanted[1], REDUCED_AT_LEAST * wanted[0]))
        image.load()
        turned = _is_turned(image)
        pixels = upright(_rgb_array(image), _orientation(image))
    return DecodedImage(pixels, *((width, height) if turned else (height, width)))


def _rgb_array(image: Image.Image) -> np.ndarray:
    """Convert in bands, so that a large image needs little memory beyond itself and the result."""
    width, height = image.size
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.asarray(_to_rgb(band))
    return pixels


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return (H, W, ...) pixels turned and mirrored as EXIF orientation 1 to 8 asks; other values change nothing."""
    if orientation in (5, 7):
        pixels = np.swapaxes(pixels, 0, 1)
    turns = {3: 2, 6: 3, 7: 2, 8: 1}.get(orientation, 0)
    if turns:
        pixels = np.rot90(pixels, turns)
    if orientation == 2:
        pixels = pixels[:, ::-1]
    elif orientation == 4:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _not_an_image(data: bytes) -> BadImageError:
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith((b"<", b"\xff\xfe<\x00", b"\xfe\xff\x00<")):
        return _bad("markup", "XML, SVG or HTML; markup is never rendered")
    if data[4:8] == b"ftyp":
        return _bad("unsupported", f"an ISO media file of brand {data[8:12]!r} (AVIF, HEIC, video, ...)")
    for magic, name in _OTHER_FORMATS:
        if data.startswith(magic):
            return _bad("unsupported", f"{name} is not among {', '.join(FORMATS)}")
    for magic in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\x00", b"MM\x00*", b"BM"):
        if data.startswith(magic):
            return _bad("corrupt", f"begins like an image but cannot be opened (first bytes {data[:8].hex()})")
    if head.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _bad("corrupt", "begins like WebP but cannot be opened")
    return _bad("not_an_image", f"no image format begins with the bytes {data[:8].hex()}")


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except (SyntaxError, ValueError, OSError, LookupError, TypeError, struct.error):
        # Unreadable metadata says nothing of the pixels, which are fine: the image is taken as stored.
        return 1


def _is_turned(image: Image.Image) -> bool:
    """Whether the EXIF orientation swaps rows and columns."""
    return _orientation(image) in (5, 6, 7, 8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _over_white(image.convert("RGBA"))
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", image.size, (255, 255, 255))
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Convert grey of more than 8 bits: 16-bit integers keep their upper byte, floats are taken as 0..1."""
    samples = np.asarray(image)
    if samples.dtype.kind == "f":
        if not (np.isfinite(samples).all() and samples.min() >= 0 and samples.max() <= 1):
            raise _bad("unsupported", "floating-point samples outside 0..1 have no defined brightness")
        grey = np.rint(samples * 255)
    else:
        if samples.min() < 0 or samples.max() > 0xFFFF:
            raise _bad("unsupported", "integer samples of more than 16 bits have no defined brightness")
        grey = samples >> 8
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
