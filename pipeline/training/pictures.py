"""Draws the label maps of several methods beside each other and the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from maskmill.model.vocabulary import Vocabulary
from maskmill.pipeline.pictures.lettering import Lettering
from maskmill.pipeline.pictures.palette import Colour, class_colours

SIDE_PX = 184
_GAP_PX = 8
_LINE_PX = 18
_LEGEND_PX = 210


def comparison(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    label_maps: Mapping[str, Sequence[np.ndarray]],
    vocabulary: Vocabulary,
) -> Image.Image:
    """Draw one row per image: the image, the truth, each method's labels under its name, and the true classes.

    images: (H, W, 3) uint8, all of one size. truths, label_maps: (H, W) class ids; ids beyond the vocabulary are black.
    """
    colours = class_colours([None] * len(vocabulary))
    columns = ["image", "truth", *label_maps]
    letters = Lettering(_LINE_PX - 5)
    height = max(round(SIDE_PX * image.shape[0] / image.shape[1]) for image in images)
    step = height + _GAP_PX
    size = len(columns) * (SIDE_PX + _GAP_PX) + _LEGEND_PX, _LINE_PX + _GAP_PX + len(images) * step
    picture = Image.new("RGB", size, "white")
    for column, name in enumerate(columns):
        letters.draw(picture, (column * (SIDE_PX + _GAP_PX), 2), name, SIDE_PX)
    for row, (image, truth) in enumerate(zip(images, truths, strict=True)):
        top = _LINE_PX + _GAP_PX + row * step
        maps = [truth, *(method_maps[row] for method_maps in label_maps.values())]
        panels = [image, *(_painted(label_map, colours) for label_map in maps)]
        for column, panel in enumerate(panels):
            drawn = Image.fromarray(panel).resize((SIDE_PX, height), Image.Resampling.LANCZOS)
            picture.paste(drawn, (column * (SIDE_PX + _GAP_PX), top))
        draw = ImageDraw.Draw(picture)
        left = len(columns) * (SIDE_PX + _GAP_PX)
        present = [class_id for class_id in np.unique(truth).tolist() if class_id < len(vocabulary)]
        for line, class_id in enumerate(present[: height // _LINE_PX]):
            y = top + line * _LINE_PX
            draw.rectangle((left, y + 2, left + 12, y + 14), fill=colours[class_id], outline="black")
            unseen = "" if vocabulary.seen_flags[class_id] else " (unseen)"
            letters.draw(picture, (left + 20, y), vocabulary.names[class_id] + unseen, _LEGEND_PX - 20)
    return picture


def _painted(label_map: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """Return (H, W, 3) uint8 with every class in its colour; ids beyond the vocabulary are black."""
    return np.array([*colours, (0, 0, 0)], np.uint8)[np.minimum(label_map, len(colours))]
