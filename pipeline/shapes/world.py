"""The classes of the shapes world, and which of them are never seen in training."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any, Literal

Group = Literal["seen", "new_shape", "new_combination", "new_stuff"]

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
PATTERNS = ("plain", "striped", "dotted", "checkered")
STUFFS = ("grass", "water", "sand", "sky", "brick", "wood", "carpet", "gravel")
ALLOWED = ("all", "seen")

COLOUR_RGB: dict[str, tuple[int, int, int]] = {
    "red": (214, 34, 38),
    "yellow": (244, 208, 36),
    "green": (40, 172, 62),
    "blue": (34, 84, 214),
    "purple": (146, 52, 186),
    "white": (240, 240, 238),
}
STUFF_RGB: dict[str, tuple[int, int, int]] = {
    "grass": (84, 128, 48),
    "water": (52, 118, 158),
    "sand": (214, 186, 134),
    "sky": (146, 190, 230),
    "brick": (160, 84, 66),
    "wood": (146, 102, 62),
    "carpet": (112, 50, 72),
    "gravel": (126, 124, 120),
}

NEW_SHAPES = ("heart", "moon")
NEW_STUFFS = ("gravel",)
IGNORE_LABEL = 255
"""The value of a label map where the truth is unknown. Drawings are exact, so the value never occurs in them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeClass:
    """One class: its name, its group of seen or unseen classes, thing or stuff, and its RGB display colour (0..255)."""

    name: str
    group: Group
    kind: Literal["thing", "stuff"]
    colour: tuple[int, int, int]

    @property
    def seen(self) -> bool:
        """Whether the class belongs to the training vocabulary."""
        return self.group == "seen"


def stuff_id(stuff: int) -> int:
    """Return the class id of ``STUFFS[stuff]``; stuffs come after all things."""
    return len(SHAPES) * len(COLOURS) + stuff


def _thing_group(shape: int, colour: int) -> Group:
    if SHAPES[shape] in NEW_SHAPES:
        return "new_shape"
    return "new_combination" if (colour - shape) % len(COLOURS) == 0 else "seen"


def _display_colour(shape: int, colour: int) -> tuple[int, int, int]:
    # Eight shapes share a colour name, so vary their hue and brightness a little to make overlays distinguish them.
    red, green, blue = (value / 255 for value in COLOUR_RGB[COLOURS[colour]])
    hue, saturation, brightness = colorsys.rgb_to_hsv(red, green, blue)
    step = (shape - (len(SHAPES) - 1) / 2) / len(SHAPES)
    red, green, blue = colorsys.hsv_to_rgb(
        (hue + 0.06 * step) % 1, saturation, min(1.0, brightness * (0.9 + 0.2 * step))
    )
    return round(red * 255), round(green * 255), round(blue * 255)


def _all_classes() -> list[ShapeClass]:
    things = [
        ShapeClass(
            name=f"{COLOURS[colour]} {SHAPES[shape]}",
            group=_thing_group(shape, colour),
            kind="thing",
            colour=_display_colour(shape, colour),
        )
        for shape in range(len(SHAPES))
        for colour in range(len(COLOURS))
    ]
    stuffs = [
        ShapeClass(name=name, group="new_stuff" if name in NEW_STUFFS else "seen", kind="stuff", colour=STUFF_RGB[name])
        for name in STUFFS
    ]
    return things + stuffs


CLASSES: list[ShapeClass] = _all_classes()
"""All 56 classes; the position is the id used in every label map and in ``classes.json``."""


def allowed_class_ids(allowed: str) -> list[int]:
    """Return the ids that drawings may contain: all 56, or only the 37 seen ones."""
    if allowed not in ALLOWED:
        raise ValueError(f"allowed must be one of {ALLOWED}, got {allowed!r}")
    return [index for index, entry in enumerate(CLASSES) if allowed == "all" or entry.seen]


def classes_document() -> dict[str, Any]:
    """Return the content of ``classes.json``: every class in id order, and the ignore label."""
    classes = [
        {"name": entry.name, "seen": entry.seen, "colour": list(entry.colour), "group": entry.group}
        for entry in CLASSES
    ]
    return {"classes": classes, "ignore_label": IGNORE_LABEL}
