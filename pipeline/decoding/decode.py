"""Decodes the bytes of an image to RGB pixels; an image that cannot be decoded raises a BadImageError."""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from maskmill.pipeline.decoding import big_tiff
from maskmill.pipeline.decoding.decoders import missing_decoder
from maskmill.pipeline.decoding.formats import Format, ends_early, jpeg_variant, recognise
from maskmill.pipeline.decoding.jpeg_xl import jpeg_xl_size
from maskmill.pipeline.decoding.png_chunks import pixel_chunks
from maskmill.pipeline.decoding.rgb import rgb_array
from maskmill.pipeline.decoding.samples import FULL_BITS, with_fewer_bits
from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.limits import MAX_PIXELS

DECODE_VERSION = 2
"""Part of a run's fingerprint. It grows when the same bytes give other pixels, so that no run mixes both."""

_PILLOW_LIMIT = threading.Lock()
_ORIENTATION_TAG = 0x0112
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap rows and columns."""
_SUBFILE_TYPE_TAG, _COMPRESSION_TAG, _SUB_IFDS_TAG, _DNG_VERSION_TAG = 254, 259, 330, 50706
_FOREIGN_COMPRESSIONS = {34676: "LogLuv", 34677: "LogLuv", 50001: "WebP"}


REDUCED_AT_LEAST = 2
"""A JPEG decoded at a reduced scale is at least so many times larger than its final size, so that the filter of the
resizing decides how the result looks."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """pixels: (H, W, 3) uint8 RGB, upright. height, width: of the stored image, upright; larger than H and W if the
    image was decoded at a reduced scale."""

    pixels: np.ndarray
    height: int
    width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How to decode. max_pixels: a larger image is an error. sample_bits: how many bits of 16-bit samples count."""

    max_pixels: int = MAX_PIXELS
    sample_bits: int = FULL_BITS


DEFAULT = Decoding()
SizeWanted = Callable[[int, int], tuple[int, int]]
"""From (height, width) of the upright image to the (height, width) at which it will be used."""


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS, sample_bits: int = FULL_BITS) -> np.ndarray:
    """Decode the first picture in ``data`` to (H, W, 3) uint8 RGB in sRGB, upright; docs/images.md lists the formats.

    EXIF orientation is applied; transparency is laid over white; 16-bit samples keep the upper 8 of their
    ``sample_bits``; grey, palette and CMYK images are converted, by their colour profile where they have one.
    ``max_pixels`` is checked before any pixel is decoded.

    Raises BadImageError (stage "decode") with error_class "empty", "not_an_image", "markup" (XML, HTML),
    "unsupported", "too_many_pixels", "truncated" or "corrupt". Apart from MemoryError, nothing else is raised.
    """
    return decode_for(data, None, Decoding(max_pixels=max_pixels, sample_bits=sample_bits)).pixels


def decode_for(data: bytes, size_wanted: SizeWanted | None, how: Decoding = DEFAULT) -> DecodedImage:
    """Decode as :func:`decode_image` for a use at ``size_wanted(height, width)``; None for the full size.

    Much larger JPEGs are decoded at a half, quarter or eighth of their scale, which takes a fraction of the time and
    memory; the result is at least ``REDUCED_AT_LEAST`` times as large as wanted. Raises as :func:`decode_image`.
    """
    with _opened(data, how) as image:
        return _decode(data, image, size_wanted, how)


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The header of an image. file_format: Pillow's name, such as "JPEG". height, width: upright, in pixels.

    is_upright: whether the stored pixels are upright, so that EXIF does not turn or mirror them.
    """

    file_format: str
    height: int
    width: int
    is_upright: bool


def read_header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read the header only. As in :func:`decode_image`, damaged metadata turns nothing.

    Raises BadImageError as :func:`decode_image`, as far as the header shows the reason.
    """
    with _opened(data, Decoding(max_pixels=max_pixels)) as image:
        orientation = _orientation(image)
        # Pillow returns the size of a TIFF after turning it.
        is_swapped = orientation in _TURNED and not isinstance(image, TiffImagePlugin.TiffImageFile)
        width, height = image.size[::-1] if is_swapped else image.size
        return ImageHeader(str(image.format), height=height, width=width, is_upright=orientation not in range(2, 9))


@contextmanager
def _opened(data: bytes, how: Decoding) -> Iterator[ImageFile.ImageFile]:
    """Yield the image, its header read and its size checked; every error of Pillow becomes a BadImageError."""
    if not data:
        raise _bad("empty", "no bytes")
    found = _decodable(data)
    try:
        with _pillow_limited(how.max_pixels), _open(data, found, how) as image:
            _check_size(*image.size, how)
            yield image
    except (BadImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _bad("too_many_pixels", f"more than the limit of {how.max_pixels} pixels") from error
    except Exception as error:
        # Decoding depends on the bytes alone, so every error that Pillow raises has its reason in them.
        raise _damage(error, data, found) from error


def _decodable(data: bytes) -> Format:
    """Return the format of ``data``. Raises BadImageError if it is no format that can be decoded here."""
    found = recognise(data)
    if found is None:
        raise _bad("not_an_image", f"no image format begins with the bytes {data[:8].hex()}")
    if found.kind == "markup":
        raise _bad("markup", f"{found.name}, which is no image")
    if found.decoder is None:
        raise _bad("unsupported", f"{found.name} is not among the formats that are decoded")
    if (reason := missing_decoder(found.decoder)) is not None:
        raise _bad("unsupported", reason)
    return found


@contextmanager
def _pillow_limited(max_pixels: int) -> Iterator[None]:
    """Make Pillow refuse more pixels while it opens a file, before some formats allocate memory, and mute its warnings.

    Pillow's limit and the filters of warnings belong to the whole process, so threads decode one after the other.
    """
    with _PILLOW_LIMIT, warnings.catch_warnings():
        # Pillow warns of large images and odd metadata; here both are either allowed or raised as errors.
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max(1, -(-max_pixels // 2))  # Pillow refuses twice this number
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _bad(error_class: str, message: str) -> BadImageError:
    return BadImageError("decode", error_class, message)


_UNSUPPORTED_WORDS = re.compile(
    "unsupported|not supported|cannot handle|not available|unknown pixel mode|unknown data organization"
)
"""Words of Pillow's errors about undamaged files that use a feature which Pillow does not support."""


def _damage(error: Exception, data: bytes, found: Format) -> BadImageError:
    text = str(error) or type(error).__name__
    if found.decoder == "JPEG" and (variant := jpeg_variant(data)):
        return _bad("unsupported", f"{variant} cannot be decoded")
    if found.decoder == "TIFF" and isinstance(error.__cause__, KeyError):
        return _bad("unsupported", f"TIFF of compression {text} cannot be decoded")
    if _UNSUPPORTED_WORDS.search(text.lower()):
        return _bad("unsupported", f"this kind of {found.name} cannot be decoded: {text}")
    truncated = isinstance(error, EOFError) or "truncated" in text.lower() or "unexpected end" in text.lower()
    return _bad("truncated" if truncated or ends_early(data) else "corrupt", f"{found.name}: {text}")


def _decode(data: bytes, image: ImageFile.ImageFile, size_wanted: SizeWanted | None, how: Decoding) -> DecodedImage:
    width, height = image.size
    # An MPO (several JPEGs in one file) is an instance of JpegImageFile too.
    if size_wanted is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
        turned = _orientation(image) in _TURNED
        wanted = size_wanted(width, height)[::-1] if turned else size_wanted(height, width)
        image.draft(None, (REDUCED_AT_LEAST * wanted[1], REDUCED_AT_LEAST * wanted[0]))
    loaded = with_fewer_bits(data, image, how.sample_bits)
    loaded.load()
    # The orientation is read after loading: Pillow turns a TIFF while it loads it, and then says orientation 1. The
    # size that it gives of a TIFF is that of the turned image even before.
    orientation = _orientation(image)
    pixels = upright(rgb_array(loaded, image, how.sample_bits), orientation)
    return DecodedImage(pixels, *((width, height) if orientation in _TURNED else (height, width)))


def _open(data: bytes, found: Format, how: Decoding) -> ImageFile.ImageFile:
    """Read the header with the decoder of the format found, and with no other decoder."""
    assert found.decoder is not None
    if found.decoder == "PNG":
        data = pixel_chunks(data)
    if data.startswith(big_tiff.BEGINNING):
        data = big_tiff.as_classic_tiff(data)
    if found.decoder == "JXL":
        size = jpeg_xl_size(data)
        if size is None:
            raise _bad("corrupt", "JPEG XL without a header")
        _check_size(*size, how)
    try:
        image = Image.open(io.BytesIO(data), formats=(found.decoder,))
    except UnidentifiedImageError:
        # Image.open hides why the decoder refused the file; called directly, the decoder raises its reason.
        factory, _ = Image.OPEN[found.decoder]
        image = factory(io.BytesIO(data), "")
    assert isinstance(image, ImageFile.ImageFile)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and (name := _foreign_tiff(image)):
        raise _bad("unsupported", f"{name} is not among the formats that are decoded")
    return image


def _foreign_tiff(image: TiffImagePlugin.TiffImageFile) -> str | None:
    """Return what kind of TIFF this is if libtiff lacks its compression or it is a preview of raw data, else None."""
    tags = image.tag_v2
    if (compression := tags.get(_COMPRESSION_TAG)) in _FOREIGN_COMPRESSIONS:
        return f"TIFF of {_FOREIGN_COMPRESSIONS[compression]} compression"
    if _DNG_VERSION_TAG in tags:
        return "DNG (raw)"
    is_preview = bool(tags.get(_SUBFILE_TYPE_TAG, 0) & 1)
    return "a camera's raw file (NEF, ARW, PEF, ...)" if is_preview and _SUB_IFDS_TAG in tags else None


def _check_size(width: int, height: int, how: Decoding) -> None:
    if width * height > how.max_pixels:
        raise _bad("too_many_pixels", f"{width} x {height} is more than the limit of {how.max_pixels} pixels")


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


def _orientation(image: Image.Image) -> int:
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        # The decoder has turned the pixels already, unless the file is a recompressed JPEG.
        return 1
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except (SyntaxError, ValueError, OSError, LookupError, TypeError, struct.error):
        # Unreadable metadata does not affect the pixels: the image is taken as stored.
        return 1
