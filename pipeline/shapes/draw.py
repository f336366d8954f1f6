"""Makes one drawing and its exact label map from a seed and an index.

A scene is first decided as plain numbers (`compose`), then painted (`paint`): the ground, then each object with its
shadow, from back to front. A pixel belongs to the object that covers at least half of it, so labels are certain at
edges too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from maskmill.pipeline.shapes.signed_distances import FIGURES, pattern_weight
from maskmill.pipeline.shapes.textures import CANVAS_SIZE, canvas, grain
from maskmill.pipeline.shapes.world import COLOUR_RGB, COLOURS, PATTERNS, SHAPES, allowed_class_ids, stuff_id

IMAGE_SIZE = 128
"""The side of every drawing in pixels."""
_SHADOW_REACH = 8
_THINGS = len(SHAPES) * len(COLOURS)
_PLACING_TRIES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """One object: class id, pattern name, centre and radius in pixels, rotation in radians, paint shades (2, 3) RGB."""

    class_id: int
    pattern: str
    x: float
    y: float
    radius: float
    rotation: float
    frequency: float
    phase: float
    shades: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """One stuff region: index in STUFFS, window (left, top, side) on its canvas, mirrored or not, brightness factor."""

    stuff: int
    window: tuple[int, int, int]
    mirrored: bool
    brightness: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Everything a drawing shows. border: (normal angle, offset, two amplitudes, two wavelengths, two phases)."""

    grounds: tuple[Ground, ...]
    border: tuple[float, ...]
    things: tuple[Thing, ...]
    shadow: tuple[int, int]
    gain: tuple[float, float, float]
    noise_origin: tuple[int, int]
    noise_strength: float


def draw(seed: int, index: int, allowed: str = "all") -> tuple[np.ndarray, np.ndarray]:
    """Return image ``index`` of the world ``seed``: (128, 128, 3) uint8 RGB and (128, 128) uint8 class ids.

    The same pair of numbers always gives the same drawing. With ``allowed="seen"`` no unseen class occurs. Raises
    ValueError for negative numbers.
    """
    return paint(compose(seed, index, allowed))


def compose(seed: int, index: int, allowed: str = "all") -> Scene:
    """Decide what drawing ``index`` of the world ``seed`` shows."""
    rng = np.random.default_rng((seed, index))
    ids = allowed_class_ids(allowed)
    thing_ids = [class_id for class_id in ids if class_id < _THINGS]
    stuffs = [class_id - _THINGS for class_id in ids if class_id >= _THINGS]
    chosen = rng.permutation(len(stuffs))[: 1 + int(rng.random() < 0.7)]
    light = rng.uniform(0, 2 * np.pi)
    reach = rng.uniform(2, 6)
    return Scene(
        grounds=tuple(_ground(rng, stuffs[position]) for position in chosen),
        border=(
            rng.uniform(0, 2 * np.pi),
            rng.uniform(-22, 22),
            *rng.uniform(2, 7, 2),
            rng.uniform(40, 90),
            rng.uniform(14, 32),
            *rng.uniform(0, 2 * np.pi, 2),
        ),
        things=_place_things(rng, thing_ids),
        shadow=(round(float(reach * np.cos(light))), round(float(reach * np.sin(light)))),
        gain=tuple(rng.uniform(0.88, 1.08) * rng.uniform(0.96, 1.04, 3)),
        noise_origin=(int(rng.integers(CANVAS_SIZE - IMAGE_SIZE)), int(rng.integers(CANVAS_SIZE - IMAGE_SIZE))),
        noise_strength=rng.uniform(1, 6),
    )


def _ground(rng: np.random.Generator, stuff: int) -> Ground:
    side = int(rng.integers(96, 176))
    left, top = rng.integers(0, CANVAS_SIZE - side, 2)
    return Ground(
        stuff=stuff,
        window=(int(left), int(top), side),
        mirrored=bool(rng.random() < 0.5),
        brightness=rng.uniform(0.85, 1.12),
    )


def _place_things(rng: np.random.Generator, thing_ids: list[int]) -> tuple[Thing, ...]:
    """Return 1 to 5 objects, which may overlap but never hide each other; an object without room is left out."""
    count = int(rng.integers(1, 6))
    largest = 34 - 2.6 * count
    placed: list[Thing] = []
    for _ in range(count):
        class_id = thing_ids[rng.integers(len(thing_ids))]
        radius = rng.uniform(12, largest)
        spots = rng.uniform(0.7 * radius, IMAGE_SIZE - 0.7 * radius, (_PLACING_TRIES, 2))
        for x, y in spots.tolist():
            if all(np.hypot(x - other.x, y - other.y) > 0.72 * (radius + other.radius) for other in placed):
                placed.append(_thing(rng, class_id, (x, y), radius))
                break
    return tuple(placed)


def _thing(rng: np.random.Generator, class_id: int, centre: tuple[float, float], radius: float) -> Thing:
    name = COLOURS[class_id % len(COLOURS)]
    base = np.array(COLOUR_RGB[name], dtype=np.float32) * np.float32(rng.uniform(0.9, 1.05))
    base = np.clip(base + rng.uniform(-10, 10, 3), 0, 255).astype(np.float32)
    # The second shade has the same colour name, lighter or darker; white can only get darker.
    if name == "white" or rng.random() < 0.5:
        second = base * np.float32(rng.uniform(0.5, 0.68))
    else:
        second = base + (255 - base) * np.float32(rng.uniform(0.35, 0.5))
    return Thing(
        class_id=class_id,
        pattern=PATTERNS[rng.integers(len(PATTERNS))],
        x=centre[0],
        y=centre[1],
        radius=radius,
        rotation=rng.uniform(0, 2 * np.pi),
        frequency=rng.uniform(1.4, 2.2),
        phase=rng.random(),
        shades=np.stack([base, second]),
    )


@cache
def _axes() -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(IMAGE_SIZE, dtype=np.float32)
    return axis[:, None], axis[None, :]


def paint(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Paint ``scene``: (128, 128, 3) uint8 RGB and (128, 128) uint8 class ids."""
    image, label = _paint_ground(scene)
    for thing in scene.things:
        _paint_thing(image, label, thing, scene.shadow)
    left, top = scene.noise_origin
    speckle = grain()[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE] * np.float32(scene.noise_strength)
    image *= np.array(scene.gain, dtype=np.float32)
    image += speckle[..., None]
    np.clip(image, 0, 255, out=image)
    return image.astype(np.uint8), label


def _paint_ground(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    layers = [_window(ground) for ground in scene.grounds]
    label = np.full((IMAGE_SIZE, IMAGE_SIZE), stuff_id(scene.grounds[0].stuff), dtype=np.uint8)
    if len(layers) == 1:
        return layers[0], label
    angle, offset, high, low, long_wave, short_wave, long_phase, short_phase = (np.float32(v) for v in scene.border)
    y, x = _axes()
    middle = np.float32((IMAGE_SIZE - 1) / 2)
    across = (x - middle) * np.cos(angle) + (y - middle) * np.sin(angle)
    along = (y - middle) * np.cos(angle) - (x - middle) * np.sin(angle)
    turn = np.float32(2 * np.pi)
    across += high * np.sin(along * (turn / long_wave) + long_phase) - offset
    across += np.float32(0.5) * low * np.sin(along * (turn / short_wave) + short_phase)
    share = np.clip(across + np.float32(0.5), 0, 1)
    label[share >= 0.5] = stuff_id(scene.grounds[1].stuff)
    first, second = layers
    second -= first
    second *= share[..., None]
    first += second
    return first, label


def _window(ground: Ground) -> np.ndarray:
    left, top, side = ground.window
    view = Image.fromarray(canvas(ground.stuff)[top : top + side, left : left + side])
    pixels = np.asarray(view.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR), dtype=np.float32)
    if ground.mirrored:
        pixels = pixels[:, ::-1]
    return pixels * np.float32(ground.brightness)


def _paint_thing(image: np.ndarray, label: np.ndarray, thing: Thing, shadow: tuple[int, int]) -> None:
    """Paint one object and its shadow into ``image`` and ``label``, touching only the pixels around it."""
    reach = 1.1 * thing.radius + _SHADOW_REACH
    left, top = max(0, int(thing.x - reach)), max(0, int(thing.y - reach))
    right, bottom = min(IMAGE_SIZE, int(thing.x + reach) + 2), min(IMAGE_SIZE, int(thing.y + reach) + 2)
    y, x = _axes()
    scale = np.float32(1 / thing.radius)
    x, y = (x[:, left:right] - np.float32(thing.x)) * scale, (y[top:bottom] - np.float32(thing.y)) * scale
    cosine, sine = np.float32(np.cos(thing.rotation)), np.float32(np.sin(thing.rotation))
    u, v = x * cosine + y * sine, y * cosine - x * sine
    distance = FIGURES[SHAPES[thing.class_id // len(COLOURS)]](u, v) * np.float32(thing.radius)

    region = image[top:bottom, left:right]
    _cast_shadow(region, distance, shadow)
    cover = np.clip(np.float32(0.5) - distance, 0, 1)
    colour = np.broadcast_to(thing.shades[0], (*distance.shape, 3))
    if thing.pattern != "plain":
        weight = pattern_weight(thing.pattern, u, v, thing.frequency, thing.phase)
        colour = colour + weight[..., None] * (thing.shades[1] - thing.shades[0])
    # The side away from the shadow is lighter, and the rim a little darker, so that the object looks solid.
    towards = (x * np.float32(shadow[0]) + y * np.float32(shadow[1])) * np.float32(-0.025)
    shading = np.float32(1) + towards - np.float32(0.28) * np.clip(distance * np.float32(0.4) + np.float32(1), 0, 1)
    region += cover[..., None] * (colour * shading[..., None] - region)
    label[top:bottom, left:right][distance <= 0] = thing.class_id


def _cast_shadow(region: np.ndarray, distance: np.ndarray, shadow: tuple[int, int]) -> None:
    dx, dy = shadow
    height, width = distance.shape
    source = distance[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
    target = region[max(0, dy) : height - max(0, -dy), max(0, dx) : width - max(0, -dx)]
    target *= (np.float32(1) - np.float32(0.45) * np.clip(np.float32(0.6) - source * np.float32(0.3), 0, 1))[..., None]
