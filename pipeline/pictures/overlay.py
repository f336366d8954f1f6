"""Pictures of what a run found: each image beside its coloured segments, with a legend, many of them in a grid.

Legend for shapes: H x W pixels of the original image.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from maskmill.pipeline.masks.maps import sampled_segment_map, sampled_size
from maskmill.pipeline.masks.segments import decode_segment_map
from maskmill.pipeline.pictures.lettering import Lettering
from maskmill.pipeline.pictures.palette import Colour

TINT = 0.6
"""Share of a segment's colour in its pixels."""
UNLABELLED_TINT = 0.75
"""Share of black in pixels that no segment covers."""
LEGEND_ENTRIES = 7
_LINE_PX = 18
_GAP_PX = 8
_NO_SEGMENT = 65535


def draw_segments(image: np.ndarray, row: Mapping[str, Any], colours: Sequence[Colour]) -> np.ndarray:
    """Tint every segment of a labels row in its class's colour, with a bright line where two segments meet.

    image: (H, W, 3) uint8. row: one row of the labels table. colours: by class id. Returns (H, W, 3) uint8.
    """
    height, width = image.shape[:2]
    if (row["height"], row["width"]) != (height, width):
        raise ValueError(f"the row is of a {row['width']}x{row['height']} image, not of {width}x{height}")
    count = len(row["rles"])
    segment_map = decode_segment_map(row["rles"], height, width, list(range(count)), fill=_NO_SEGMENT)
    return tint_segments(image, segment_map, [colours[class_id] for class_id in row["class_ids"]])


def tint_segments(image: np.ndarray, segment_map: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """Tint the regions of a map of segment numbers, with a bright line where two meet.

    image: (H, W, 3) uint8. segment_map: (H, W) uint16; a number beyond ``colours``, one per segment, is no segment.
    """
    count = len(colours)
    palette = np.array([*colours, (0, 0, 0)], dtype=np.float32)
    tint = np.array([TINT] * count + [UNLABELLED_TINT], dtype=np.float32)
    index = np.minimum(segment_map, count).astype(np.intp)
    share = tint[index][..., None]
    drawn = (image * (1 - share) + palette[index] * share).astype(np.uint8)
    border = np.zeros(segment_map.shape, dtype=bool)
    border[:, 1:] |= segment_map[:, 1:] != segment_map[:, :-1]
    border[1:] |= segment_map[1:] != segment_map[:-1]
    drawn[border] = 255
    return drawn


def tile(image: np.ndarray, row: Mapping[str, Any], colours: Sequence[Colour], side_px: int = 256) -> Image.Image:
    """One picture: the image, the same with its segments, and below them the names with their scores.

    The long side of the image is scaled to ``side_px``; the legend holds the largest segments.
    """
    height, width = image.shape[:2]
    scale = side_px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pair = (Image.fromarray(image), Image.fromarray(draw_segments(image, row, colours)))
    picture = Image.new("RGB", (2 * side_px + _GAP_PX, side_px + _LINE_PX * LEGEND_ENTRIES + _GAP_PX), "white")
    for position, half in enumerate(pair):
        # Pixels of a small image stay visible as such; a photograph is smoothed.
        resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
        picture.paste(half.resize(size, resampling), (position * (side_px + _GAP_PX), 0))
    _draw_legend(picture, row, colours, top_px=side_px + _GAP_PX)
    return picture


def _draw_legend(picture: Image.Image, row: Mapping[str, Any], colours: Sequence[Colour], top_px: int) -> None:
    draw, letters = ImageDraw.Draw(picture), Lettering(_LINE_PX - 5)
    segments = sorted(
        zip(row["areas"], row["class_ids"], row["class_names"], row["scores"], strict=True), key=lambda s: -s[0]
    )
    shown = segments if len(segments) <= LEGEND_ENTRIES else segments[: LEGEND_ENTRIES - 1]
    for line, (_, class_id, name, score) in enumerate(shown):
        y = top_px + line * _LINE_PX
        draw.rectangle((2, y + 2, 14, y + 14), fill=colours[class_id], outline="black")
        figure = f"{score:.2f}"
        name_px = min(letters.length(name), picture.width - 22 - letters.length(figure) - 2 * _GAP_PX)
        letters.draw(picture, (22, y), name, name_px)
        letters.draw(picture, (22 + math.ceil(name_px) + _GAP_PX, y), figure)
    if len(segments) > len(shown):
        y = top_px + len(shown) * _LINE_PX
        letters.draw(picture, (22, y), f"and {len(segments) - len(shown)} more")


def grid(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Tiles of one size in rows of ``columns`` on white."""
    if not tiles:
        raise ValueError("a grid needs at least one tile")
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    step_x, step_y = tiles[0].width + 2 * _GAP_PX, tiles[0].height + _GAP_PX
    picture = Image.new("RGB", (columns * step_x, rows * step_y + _GAP_PX), "white")
    for position, part in enumerate(tiles):
        picture.paste(part, (position % columns * step_x + _GAP_PX, position // columns * step_y + _GAP_PX))
    return picture


_LEGEND_PX = 340
_ENTRY_PX = 24


_FONT_PX = 15


def overlay_picture(pixels: np.ndarray, row: Mapping[str, Any], colours: Sequence[Colour], side: int) -> Image.Image:
    """The image (H, W, 3) with its segments, and beside it the names, scores and areas of all of them."""
    height, width = sampled_size(row["height"], row["width"], side)
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX, reducing_gap=3.0)
    grid = sampled_segment_map(row["rles"], row["height"], row["width"], side)
    own_colours = [colours[class_id] for class_id in row["class_ids"]]
    drawn = Image.fromarray(tint_segments(np.asarray(small), grid, own_colours))
    if drawn.height < side // 2 and drawn.width < side // 2:
        factor = side // 2 // max(drawn.size)
        drawn = drawn.resize((drawn.width * max(1, factor), drawn.height * max(1, factor)), Image.Resampling.NEAREST)
    legend = _legend(row, own_colours)
    picture = Image.new("RGB", (drawn.width + legend.width, max(drawn.height, legend.height)), "white")
    picture.paste(drawn, (0, 0))
    picture.paste(legend, (drawn.width, 0))
    return picture


def _legend(row: Mapping[str, Any], colours: Sequence[Colour]) -> Image.Image:
    letters = Lettering(_FONT_PX)
    order = np.argsort([-area for area in row["areas"]], kind="stable")
    legend = Image.new("RGB", (_LEGEND_PX, _ENTRY_PX * (len(order) + 1)), "white")
    draw = ImageDraw.Draw(legend)
    pixels = row["width"] * row["height"]
    for line, position in enumerate(order.tolist()):
        top = line * _ENTRY_PX + 6
        draw.rectangle((12, top + 2, 26, top + 16), fill=colours[position], outline="black")
        figures = f"{row['scores'][position]:.2f}  {row['areas'][position] / pixels:.0%}"
        figures_px = math.ceil(letters.length(figures))
        letters.draw(legend, (_LEGEND_PX - 8 - figures_px, top), figures)
        letters.draw(legend, (34, top), row["class_names"][position], _LEGEND_PX - 8 - 34 - 10 - figures_px)
    if not len(order):
        letters.draw(legend, (12, 6), "no segment")
    return legend


def png_bytes(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return sink.getvalue()
