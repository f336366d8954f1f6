"""Converts pixels to sRGB by the colour profile in an image; a profile that cannot be used is ignored."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 8 * 2**20
"""Larger profiles are ignored. Profiles of printing presses, the largest in use, have 0.5 to 3 MB."""
_CACHED_PROFILES = 8
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
_PROBE_STEP = 15
_INVISIBLE_LEVELS = 1
"""A profile that changes no colour by more than this counts as sRGB and is not applied, which saves its cost."""

ToRgb = Callable[[Image.Image], Image.Image]


def to_srgb(mode: str, profile: bytes | None) -> ToRgb | None:
    """Return a function from images of ``mode`` (RGB, L, CMYK or LAB) to sRGB, None if plain conversion is enough.

    profile: as embedded in the file. The intent is perceptual. A profile that is damaged, too large, for other colours
    than the image's, or equal to sRGB is not used.
    """
    if mode == "LAB":
        # Lab values denote colours by themselves, so no profile is needed.
        return lambda image: _applied(image, _lab_transform())
    if not profile or len(profile) > MAX_PROFILE_BYTES:
        return None
    found = _transform(profile)
    if found is None:
        return None
    profile_mode, transform = found
    if mode == profile_mode:
        return lambda image: _applied(image, transform)
    if mode == "L" and profile_mode == "RGB":
        return lambda image: _applied(image.convert("RGB"), transform)
    return None


def _applied(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None is returned only if the image is changed in place
    return converted


@lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


@lru_cache(maxsize=_CACHED_PROFILES)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """Return the mode of the profile and its transform to sRGB; None if it is damaged or changes nothing."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODES.get(source.profile.xcolor_space.strip())
        if mode is None:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        return None if _changes_nothing(mode, transform) else (mode, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _changes_nothing(mode: str, transform: ImageCms.ImageCmsTransform) -> bool:
    if mode not in ("RGB", "L"):
        return False
    levels = np.arange(0, 256, _PROBE_STEP, dtype=np.uint8)
    probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    image = Image.fromarray(probe) if mode == "RGB" else Image.fromarray(levels[None])
    before = np.asarray(image.convert("RGB")).astype(int)
    return int(np.abs(np.asarray(_applied(image, transform)) - before).max()) <= _INVISIBLE_LEVELS
