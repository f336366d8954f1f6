"""Computes eight ground textures, once per process, on large canvases from which drawings take random windows."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from maskmill.pipeline.shapes.world import STUFF_RGB, STUFFS

CANVAS_SIZE = 512
"""The side of a texture canvas in pixels; a window of 128 fits in 147,000 places, before flips and zoom."""
_CANVAS_SEED = 7
Canvas = np.ndarray


def _noise(rng: np.random.Generator, sigma: float | tuple[float, float]) -> Canvas:
    """Return smooth periodic noise of unit variance; sigma in pixels, (vertical, horizontal) if a pair."""
    noise = ndimage.gaussian_filter(rng.standard_normal((CANVAS_SIZE, CANVAS_SIZE)), sigma, mode="wrap")
    return noise / noise.std()


def _grid() -> tuple[Canvas, Canvas]:
    rows, columns = np.mgrid[0:CANVAS_SIZE, 0:CANVAS_SIZE].astype(np.float64)
    return rows, columns


def _tint(name: str, light: Canvas) -> Canvas:
    return np.array(STUFF_RGB[name], dtype=np.float64) * (1 + light[..., None])


def _grass(rng: np.random.Generator) -> Canvas:
    blades = _noise(rng, (4.0, 0.7)) + 0.6 * _noise(rng, (2.0, 0.6))
    canvas = _tint("grass", 0.20 * blades + 0.10 * _noise(rng, 14))
    canvas[..., 0] += 12 * _noise(rng, 20)
    return canvas


def _water(rng: np.random.Generator) -> Canvas:
    rows, _ = _grid()
    swell = np.sin(rows * (2 * np.pi / 10.6667) + 1.6 * _noise(rng, (6, 16)))
    glitter = np.maximum(swell + 0.5 * _noise(rng, (1.2, 5)) - 1.0, 0)
    return _tint("water", 0.13 * swell + 0.08 * _noise(rng, (2, 9))) + 110 * glitter[..., None]


def _sand(rng: np.random.Generator) -> Canvas:
    rows, columns = _grid()
    ripple = np.sin((rows + 0.5 * columns) * (2 * np.pi / 32) + 1.2 * _noise(rng, 18))
    return _tint("sand", 0.05 * ripple + 0.07 * _noise(rng, 0.6) + 0.03 * _noise(rng, 8))


def _sky(rng: np.random.Generator) -> Canvas:
    clouds = _noise(rng, (12, 22)) + 0.5 * _noise(rng, (5, 9)) + 0.2 * _noise(rng, 2.5)
    cover = (1 / (1 + np.exp(-2.6 * (clouds - 0.5))))[..., None]
    return _tint("sky", 0.04 * _noise(rng, 40)) * (1 - 0.8 * cover) + 0.8 * cover * np.array([246.0, 248.0, 250.0])


def _brick(rng: np.random.Generator) -> Canvas:
    height, width = 16, 32
    rows, columns = _grid()
    course = (rows // height).astype(int)
    shifted = (columns + (course % 2) * (width / 2)) % CANVAS_SIZE
    joint = np.minimum(rows % height, shifted % width) < 2.0
    shade = rng.normal(0, 0.13, (CANVAS_SIZE // height, CANVAS_SIZE // width))[course, (shifted // width).astype(int)]
    canvas = _tint("brick", shade + 0.07 * _noise(rng, 0.8))
    canvas[joint] = np.array([190.0, 180.0, 168.0]) * (1 + 0.06 * _noise(rng, 0.8)[joint][:, None])
    return canvas


def _wood(rng: np.random.Generator) -> Canvas:
    plank = 32
    rows, _ = _grid()
    board = (rows // plank).astype(int)
    shade = rng.normal(0, 0.10, CANVAS_SIZE // plank)[board]
    offset = rng.uniform(0, 100, CANVAS_SIZE // plank)[board]
    grain = np.sin(0.75 * rows + offset + 2.2 * _noise(rng, (5, 40)))
    canvas = _tint("wood", shade + 0.09 * grain + 0.07 * _noise(rng, (0.6, 9)))
    canvas[(rows % plank < 1.5)] *= 0.5
    return canvas


def _carpet(rng: np.random.Generator) -> Canvas:
    rows, columns = _grid()
    weave = np.sin(rows * np.pi / 2) * np.sin(columns * np.pi / 2)
    lozenge = np.abs((rows % 32) - 16) + np.abs((columns % 32) - 16)
    figure = np.where(np.abs(lozenge - 11) < 2.2, 1.0, 0.0) + np.where(lozenge < 3.5, 1.0, 0.0)
    canvas = _tint("carpet", 0.16 * weave + 0.10 * _noise(rng, 0.7))
    return canvas + figure[..., None] * np.array([72.0, 74.0, 34.0])


def _gravel(rng: np.random.Generator) -> Canvas:
    stones = 2600
    points = rng.uniform(0, CANVAS_SIZE, (stones, 2))
    tiled = np.concatenate([points + np.array([dy, dx]) * CANVAS_SIZE for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    rows, columns = _grid()
    distance, nearest = cKDTree(tiled).query(np.stack([rows.ravel(), columns.ravel()], axis=1), k=2)
    gap = (distance[:, 1] - distance[:, 0]).reshape(rows.shape)
    stone = nearest[:, 0].reshape(rows.shape) % stones
    relief = np.clip(gap / 4.0, 0, 1) - 0.75 + 0.05 * np.clip(gap - 4, 0, 4)
    canvas = _tint("gravel", rng.normal(0, 0.16, stones)[stone] + 0.75 * relief + 0.06 * _noise(rng, 0.8))
    return canvas + rng.normal(0, 7, (stones, 3))[stone]


_PAINTERS = {
    "grass": _grass,
    "water": _water,
    "sand": _sand,
    "sky": _sky,
    "brick": _brick,
    "wood": _wood,
    "carpet": _carpet,
    "gravel": _gravel,
}


@cache
def canvas(stuff: int) -> np.ndarray:
    """Return the (512, 512, 3) uint8 canvas of ``STUFFS[stuff]``, which is the same in every process."""
    rng = np.random.default_rng((_CANVAS_SEED, stuff))
    painted = np.clip(_PAINTERS[STUFFS[stuff]](rng), 0, 255).astype(np.uint8)
    painted.setflags(write=False)
    return painted


@cache
def grain() -> np.ndarray:
    """Return (512, 512) float32 sensor noise of unit variance."""
    return np.random.default_rng(_CANVAS_SEED).standard_normal((CANVAS_SIZE, CANVAS_SIZE)).astype(np.float32)
