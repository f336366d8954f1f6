"""The outlines of the eight shapes, as signed distances over a pixel grid, and the patterns painted on them.

Coordinates (u, v) rotate with the shape and are divided by its radius; v points down. Distances are in the same unit
and negative inside. They are exact near straight edges, which is enough for painting.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Grid = np.ndarray
"""An array (h, w) float32."""


def _box(u: Grid, v: Grid, half_width: float, half_height: float) -> Grid:
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _disc(u: Grid, v: Grid, radius: float) -> Grid:
    return np.sqrt(u * u + v * v) - radius


def circle(u: Grid, v: Grid) -> Grid:
    """A disc."""
    return _disc(u, v, 0.86)


def square(u: Grid, v: Grid) -> Grid:
    """A square."""
    return _box(u, v, 0.76, 0.76)


def triangle(u: Grid, v: Grid) -> Grid:
    """An equilateral triangle, one corner up."""
    return np.maximum(np.abs(u) * 0.8660254 - v * 0.5, v) - 0.54


def star(u: Grid, v: Grid) -> Grid:
    """A five-pointed star, one point up."""
    # Fold the plane into one tenth, which holds half a point: from the tip on the axis to the notch beside it.
    tip, notch, sector = 1.05, 0.46, np.float32(2 * np.pi / 5)
    angle = np.arctan2(u, -v)
    angle = np.abs(angle - sector * np.round(angle / sector))
    radius = np.sqrt(u * u + v * v)
    notch_x, notch_y = notch * np.cos(np.pi / 5), notch * np.sin(np.pi / 5)
    edge = np.array([notch_x - tip, notch_y]) / np.hypot(notch_x - tip, notch_y)
    return (radius * np.cos(angle) - np.float32(tip)) * np.float32(edge[1]) - radius * np.sin(angle) * np.float32(
        edge[0]
    )


def cross(u: Grid, v: Grid) -> Grid:
    """A plus sign."""
    return np.minimum(_box(u, v, 0.92, 0.31), _box(u, v, 0.31, 0.92))


def ring(u: Grid, v: Grid) -> Grid:
    """An annulus."""
    return np.abs(_disc(u, v, 0.7)) - 0.24


def heart(u: Grid, v: Grid) -> Grid:
    """A heart, its point down."""
    # The heart is a square on its corner with a disc on each of its two upper edges.
    side = 0.58
    v = v - 0.12
    diagonal = (np.abs(u) + np.abs(v)) * 0.70710678 - side
    lobe = _disc(np.abs(u) - side * 0.70710678, v + side * 0.70710678, side)
    return np.minimum(diagonal, lobe)


def moon(u: Grid, v: Grid) -> Grid:
    """A crescent, open to the right."""
    return np.maximum(_disc(u, v, 0.95), -_disc(u - 0.46, v, 0.76))


FIGURES: dict[str, Callable[[Grid, Grid], Grid]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "cross": cross,
    "ring": ring,
    "heart": heart,
    "moon": moon,
}


def pattern_weight(pattern: str, u: Grid, v: Grid, frequency: float, phase: float) -> Grid:
    """Return the share (0..1) of the second shade at every pixel, with soft edges.

    frequency: periods per radius; phase: 0..1 of a period.
    """
    turn = np.float32(2 * np.pi)
    if pattern == "striped":
        wave = np.sin((u * np.float32(frequency) + np.float32(phase)) * turn)
    elif pattern == "dotted":
        wave = np.cos((u * np.float32(frequency) + np.float32(phase)) * turn) + np.cos(v * np.float32(frequency) * turn)
        wave = wave - np.float32(0.55)
    elif pattern == "checkered":
        scale = np.float32(frequency * 0.75) * turn
        wave = np.sin(u * scale + np.float32(phase) * turn) * np.sin(v * scale) * np.float32(2)
    else:
        raise ValueError(f"unknown pattern {pattern!r}")
    return np.clip(wave * np.float32(2.5) + np.float32(0.5), 0, 1)
