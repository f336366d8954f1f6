"""Finds one image of a run again and draws its segments over it, with a legend."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from pipeline.decode import decode_image
from pipeline.errors import UsageError
from pipeline.images import ImageFinder
from pipeline.lettering import Lettering
from pipeline.output import labels_name
from pipeline.overlay import tint_segments
from pipeline.palette import Colour
from pipeline.results import Results
from pipeline.segment_maps import sampled_segment_map, sampled_size
from pipeline.sources.stream import open_stream
from pipeline.sources.version import file_info
from pipeline.storage import open_filesystem, with_retries

SEARCH_THREADS = 16
MOST_NAMED = 5
_LEGEND_PX = 340
_LINE_PX = 24
_FONT_PX = 15


def find_row(results: Results, image_id: str, shard_id: str | None = None) -> dict[str, Any]:
    """The labels row of an image. Reads the ids of every shard, or of one if it is given.

    Raises UsageError if there is no such image, or several shards have one of that id.
    """
    if shard_id is not None and shard_id not in results.shard_ids:
        known = ", ".join(results.shard_ids[:MOST_NAMED])
        raise UsageError(f"no finished shard {shard_id!r}; there are {len(results.shard_ids)}: {known}, ...")
    shards = results.shard_ids if shard_id is None else (shard_id,)
    with ThreadPoolExecutor(SEARCH_THREADS) as pool:
        found = list(pool.map(lambda shard: _positions(results, shard, image_id), shards))
    hits = [(shard, position) for shard, positions in zip(shards, found, strict=True) for position in positions]
    if not hits:
        raise UsageError(f"{results.output.uri} has no labelled image {image_id!r}; failed ones are in errors/")
    if len({shard for shard, _ in hits}) > 1:
        names = ", ".join(sorted({shard for shard, _ in hits})[:MOST_NAMED])
        raise UsageError(f"several shards have an image {image_id!r}; choose one with --shard: {names}")
    shard, position = hits[0]
    return results.output.read_table(labels_name(shard)).slice(position, 1).to_pylist()[0]


def _positions(results: Results, shard_id: str, image_id: str) -> list[int]:
    """Positions in the labels file of the rows with that id; reads the one column only."""
    fs, path = open_filesystem(f"{results.output.uri}/{labels_name(shard_id)}", results.output.storage_options)
    with open_stream(fs, path, with_retries(lambda: file_info(fs, path))) as stream:
        ids = pq.ParquetFile(stream, pre_buffer=False).read(columns=["image_id"])["image_id"]
    return pc.indices_nonzero(pc.equal(ids, pa.scalar(image_id))).to_pylist()


def show_image(results: Results, row: Mapping[str, Any], side: int) -> Image.Image:
    """Fetch the image of a labels row and draw it. side: longest side of the image in the picture, in pixels.

    Raises UsageError where the image is no longer there or has changed, and BadImageError where it cannot be decoded.
    """
    finder = ImageFinder(results.output.storage_options, results.run["config"]["image_column"])
    _, fetched = next(finder.read({row["row"]: row["uri"]}))
    if fetched.data is None:
        raise UsageError(f"the image {row['uri']} cannot be read: {fetched.error}")
    pixels = decode_image(fetched.data)
    if pixels.shape[:2] != (row["height"], row["width"]):
        raise UsageError(f"the image {row['uri']} has changed since it was labelled")
    return overlay_picture(pixels, row, results.colours, side)


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
    legend = Image.new("RGB", (_LEGEND_PX, _LINE_PX * (len(order) + 1)), "white")
    draw = ImageDraw.Draw(legend)
    pixels = row["width"] * row["height"]
    for line, position in enumerate(order.tolist()):
        top = line * _LINE_PX + 6
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
