"""Pictures of what a run found: an image with its segments in colour and a legend, or a grid of many such images."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from maskmill.pipeline.masks.maps import sampled_segment_map, sampled_size, segment_map
from maskmill.pipeline.pictures.lettering import Lettering
from maskmill.pipeline.pictures.palette import Colour

TINT = 0.6
"""Share of a segment's colour in its pixels."""
UNLABELLED_TINT = 0.75
"""Share of black in pixels that no segment covers."""
LEGEND_ENTRIES = 7
"""Lines of the legend of a tile."""
_GAP_PX = 8
_TILE_LINE_PX, _TILE_FONT_PX = 18, 13
_LEGEND_PX, _LEGEND_LINE_PX, _LEGEND_FONT_PX = 340, 24, 15


def draw_segments(image: np.ndarray, row: Mapping[str, Any], colours: Sequence[Colour]) -> np.ndarray:
    """Tint every segment of a labels row in its class's colour, with a bright line where two segments meet.

    image: (H, W, 3) uint8. row: one row of the labels table. colours: by class id. Returns (H, W, 3) uint8. Raises
    ValueError if the row is of an image of another size.
    """
    height, width = image.shape[:2]
    if (row["height"], row["width"]) != (height, width):
        raise ValueError(f"the row is of a {row['width']}x{row['height']} image, not of {width}x{height}")
    return tint_segments(image, segment_map(row["rles"], height, width), [colours[i] for i in row["class_ids"]])


def tint_segments(image: np.ndarray, numbers: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """Tint the regions of a map of segment numbers, with a bright line where two meet.

    image: (H, W, 3) uint8. numbers: (H, W) uint16, the segment of each pixel; a number beyond ``colours``, of which
    there is one per segment, means that no segment lies there.
    """
    count = len(colours)
    palette = np.array([*colours, (0, 0, 0)], dtype=np.float32)
    tint = np.array([TINT] * count + [UNLABELLED_TINT], dtype=np.float32)
    index = np.minimum(numbers, count).astype(np.intp)
    share = tint[index][..., None]
    drawn = (image * (1 - share) + palette[index] * share).astype(np.uint8)
    border = np.zeros(numbers.shape, dtype=bool)
    border[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
    border[1:] |= numbers[1:] != numbers[:-1]
    drawn[border] = 255
    return drawn


class _Entry(NamedTuple):
    """One segment in a legend. area: pixels."""

    area: int
    name: str
    score: float
    colour: Colour


def _largest_first(row: Mapping[str, Any], colours: Sequence[Colour]) -> list[_Entry]:
    """The segments of a labels row, for its legend. colours: by class id."""
    columns = (row["areas"], row["class_ids"], row["class_names"], row["scores"])
    entries = [_Entry(area, name, score, colours[i]) for area, i, name, score in zip(*columns, strict=True)]
    return sorted(entries, key=lambda entry: -entry.area)


def _draw_swatches(
    picture: Image.Image, entries: Sequence[_Entry], box: tuple[int, int, int], line_px: int
) -> Iterator[tuple[int, _Entry]]:
    """Draw the coloured square of each entry, one below the other, and yield where its text begins.

    box: left edge, upper edge of the first line, and side of the squares. Yields the upper edge of each line.
    """
    draw = ImageDraw.Draw(picture)
    left, top, side = box
    for line, entry in enumerate(entries):
        y = top + line * line_px
        draw.rectangle((left, y + 2, left + side, y + 2 + side), fill=entry.colour, outline="black")
        yield y, entry


def tile(image: np.ndarray, row: Mapping[str, Any], colours: Sequence[Colour], side_px: int = 256) -> Image.Image:
    """One picture: the image, the same with its segments, and below them the names with their scores.

    The long side of the image is scaled to ``side_px``; the legend holds the largest segments.
    """
    height, width = image.shape[:2]
    scale = side_px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pair = (Image.fromarray(image), Image.fromarray(draw_segments(image, row, colours)))
    legend_px = _TILE_LINE_PX * LEGEND_ENTRIES
    picture = Image.new("RGB", (2 * side_px + _GAP_PX, side_px + legend_px + _GAP_PX), "white")
    for position, half in enumerate(pair):
        # An enlarged image keeps its pixels visible as squares; a reduced one is averaged.
        resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
        picture.paste(half.resize(size, resampling), (position * (side_px + _GAP_PX), 0))
    _draw_tile_legend(picture, _largest_first(row, colours), top_px=side_px + _GAP_PX)
    return picture


def _draw_tile_legend(picture: Image.Image, entries: Sequence[_Entry], top_px: int) -> None:
    """Write name and score of the largest segments, and in the last line how many are not named."""
    letters = Lettering(_TILE_FONT_PX)
    shown = entries if len(entries) <= LEGEND_ENTRIES else entries[: LEGEND_ENTRIES - 1]
    for y, entry in _draw_swatches(picture, shown, (2, top_px, 12), _TILE_LINE_PX):
        figure = f"{entry.score:.2f}"
        name_px = min(letters.length(entry.name), picture.width - 22 - letters.length(figure) - 2 * _GAP_PX)
        letters.draw(picture, (22, y), entry.name, name_px)
        letters.draw(picture, (22 + math.ceil(name_px) + _GAP_PX, y), figure)
    if len(entries) > len(shown):
        letters.draw(picture, (22, top_px + len(shown) * _TILE_LINE_PX), f"and {len(entries) - len(shown)} more")


def grid(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Tiles of one size in rows of ``columns`` on white. Raises ValueError if there is no tile."""
    if not tiles:
        raise ValueError("a grid needs at least one tile")
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    step_x, step_y = tiles[0].width + 2 * _GAP_PX, tiles[0].height + _GAP_PX
    picture = Image.new("RGB", (columns * step_x, rows * step_y + _GAP_PX), "white")
    for position, part in enumerate(tiles):
        picture.paste(part, (position % columns * step_x + _GAP_PX, position // columns * step_y + _GAP_PX))
    return picture


def overlay_picture(pixels: np.ndarray, row: Mapping[str, Any], colours: Sequence[Colour], side: int) -> Image.Image:
    """The image (H, W, 3) with its segments, and beside it the names, scores and areas of all of them.

    side: the longest side of the image in the picture, in pixels.
    """
    height, width = sampled_size(row["height"], row["width"], side)
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX, reducing_gap=3.0)
    numbers = sampled_segment_map(row["rles"], row["height"], row["width"], side)
    drawn = Image.fromarray(tint_segments(np.asarray(small), numbers, [colours[i] for i in row["class_ids"]]))
    if drawn.height < side // 2 and drawn.width < side // 2:
        factor = side // 2 // max(drawn.size)
        drawn = drawn.resize((drawn.width * max(1, factor), drawn.height * max(1, factor)), Image.Resampling.NEAREST)
    legend = _overlay_legend(_largest_first(row, colours), row["width"] * row["height"])
    picture = Image.new("RGB", (drawn.width + legend.width, max(drawn.height, legend.height)), "white")
    picture.paste(drawn, (0, 0))
    picture.paste(legend, (drawn.width, 0))
    return picture


def _overlay_legend(entries: Sequence[_Entry], pixels: int) -> Image.Image:
    """A picture with the name, the score and the share of ``pixels`` of every segment."""
    letters = Lettering(_LEGEND_FONT_PX)
    legend = Image.new("RGB", (_LEGEND_PX, _LEGEND_LINE_PX * (len(entries) + 1)), "white")
    for y, entry in _draw_swatches(legend, entries, (12, 6, 14), _LEGEND_LINE_PX):
        figures = f"{entry.score:.2f}  {entry.area / pixels:.0%}"
        figures_px = math.ceil(letters.length(figures))
        letters.draw(legend, (_LEGEND_PX - 8 - figures_px, y), figures)
        letters.draw(legend, (34, y), entry.name, _LEGEND_PX - 8 - 34 - 10 - figures_px)
    if not entries:
        letters.draw(legend, (12, 6), "no segment")
    return legend


def png_bytes(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return sink.getvalue()
