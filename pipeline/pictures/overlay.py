"""Pictures of what a run found: each image beside its coloured segments, with a legend, many of them in a grid.

Legend for shapes: H x W pixels of the original image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from maskmill.pipeline.errors import BadImageError, UsageError
from maskmill.pipeline.masks.segments import decode_segment_map
from maskmill.pipeline.pictures.lettering import Lettering
from maskmill.pipeline.pictures.palette import Colour
from maskmill.pipeline.results.reader import Results, open_results
from maskmill.pipeline.storage.files import StorageOptions

COLUMNS = ("uri", "row", "width", "height", "class_ids", "class_names", "scores", "areas", "rles")
"""What a picture needs of the labels table."""
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


def overlay_grid(
    output_uri: str, *, images: int, columns: int, storage_options: StorageOptions | None = None
) -> Image.Image:
    """A grid of the first ``images`` labelled images of a run. Raises UsageError if there are none to be found."""
    results = open_results(output_uri, storage_options)
    tiles = [tile(image, row, results.colours) for image, row in islice(_labelled_images(results), images)]
    if not tiles:
        raise UsageError(f"{output_uri} has no labelled image, or its images are no longer where they were")
    return grid(tiles, columns)


def _labelled_images(results: Results) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Pixels and labels row of each labelled image, in order; images gone or changed since are passed over."""
    finder = results.finder()
    for shard_id in results.shard_ids:
        rows = {row["row"]: row for row in results.rows(shard_id, COLUMNS)}
        for number, fetched in finder.read({number: row["uri"] for number, row in rows.items()}):
            try:
                pixels = finder.pixels(fetched, rows[number])
            except BadImageError:
                continue
            yield pixels, rows[number]
