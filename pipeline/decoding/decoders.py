"""Tells which formats can be decoded: the few of Pillow that are switched on, and those of installed plugins."""

from __future__ import annotations

from functools import cache

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

# Importing a plugin registers it. Pillow has some fifty more formats; they stay off, since each one is more code that
# reads untrusted bytes.
_SWITCHED_ON = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
BUILT_IN = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")


def missing_decoder(decoder: str) -> str | None:
    """Return None if images of Pillow's format ``decoder`` can be decoded here, else what to install."""
    if decoder in BUILT_IN:
        return None
    if decoder == "AVIF":
        return None if features.check("avif") else "AVIF needs a Pillow that was built with it, as Pillow's wheels are"
    if decoder == "HEIF":
        return None if _heif() else "HEIC needs pillow-heif: pip install 'maskmill[heif]'"
    return None if _jpeg_xl() else "JPEG XL needs pillow-jxl-plugin: pip install 'maskmill[jxl]'"


@cache
def _heif() -> bool:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener(thumbnails=False, decode_threads=1)
    return True


@cache
def _jpeg_xl() -> bool:
    try:
        import pillow_jxl  # noqa: F401 (the import registers the format)
    except ImportError:
        return False
    return True
