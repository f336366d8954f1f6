"""Colours of classes: those of the vocabulary, else a series whose first twelve colour-blind people can tell apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

Colour = tuple[int, int, int]

DISTINCT: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 94, 0),
    (86, 180, 233),
    (204, 121, 167),
    (240, 228, 66),
    (51, 34, 136),
    (153, 153, 51),
    (136, 34, 85),
    (68, 170, 153),
    (170, 68, 153),
)
"""Okabe and Ito's seven colours, then five of Paul Tol's muted ones: distinct with every common colour blindness."""

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
_LIGHTNESS = (0.62, 0.80, 0.48, 0.71)
"""Beyond DISTINCT, neighbouring ids also differ in lightness, which every eye sees."""
_CHROMA = 0.14


def class_colours(given: Sequence[Sequence[int] | None]) -> list[Colour]:
    """The colour (RGB, 0..255) of every class in id order. given: the vocabulary's colours, None where it has none."""
    return [(int(rgb[0]), int(rgb[1]), int(rgb[2])) if rgb else _colour(class_id) for class_id, rgb in enumerate(given)]


def _colour(class_id: int) -> Colour:
    if class_id < len(DISTINCT):
        return DISTINCT[class_id]
    angle = class_id * _GOLDEN_ANGLE
    lightness = _LIGHTNESS[class_id % len(_LIGHTNESS)]
    return _oklab_to_rgb(lightness, _CHROMA * math.cos(angle), _CHROMA * math.sin(angle))


def _oklab_to_rgb(lightness: float, a: float, b: float) -> Colour:
    """Convert from Oklab (Ottosson, 2020), clipped to the colours of a screen."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _sample(4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short),
        _sample(-1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short),
        _sample(-0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short),
    )


def _sample(linear: float) -> int:
    clipped = min(1.0, max(0.0, linear))
    encoded = 12.92 * clipped if clipped <= 0.0031308 else 1.055 * clipped ** (1 / 2.4) - 0.055
    return round(255 * encoded)
