"""Finds one image of a run again and draws its segments over it, with a legend."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from maskmill.pipeline.errors import BadImageError, UsageError
from maskmill.pipeline.masks.maps import sampled_segment_map, sampled_size
from maskmill.pipeline.output.folder import labels_name
from maskmill.pipeline.pictures.lettering import Lettering
from maskmill.pipeline.pictures.overlay import tint_segments
from maskmill.pipeline.pictures.palette import Colour
from maskmill.pipeline.results.reader import Results
from maskmill.pipeline.sources.shard import printable
from maskmill.pipeline.sources.stream import open_stream
from maskmill.pipeline.sources.version import file_info
from maskmill.pipeline.storage.files import open_filesystem, with_retries

SEARCH_THREADS = 16
MOST_NAMED = 5
_LEGEND_PX = 340
_LINE_PX = 24
_FONT_PX = 15


def find_row(results: Results, image_id: str, shard_id: str | None = None, row: int | None = None) -> dict[str, Any]:
    """The labels row of an image. Reads the ids of every shard, or of one if it is given. row: position in its shard.

    Raises UsageError if there is no such image, or several images have that id, which are then listed.
    """
    image_id = printable(image_id)
    if shard_id is not None and shard_id not in results.shard_ids:
        known = ", ".join(results.shard_ids[:MOST_NAMED])
        raise UsageError(f"no finished shard {shard_id!r}; there are {len(results.shard_ids)}: {known}, ...")
    shards = results.shard_ids if shard_id is None else (shard_id,)
    with ThreadPoolExecutor(SEARCH_THREADS) as pool:
        found = [hit for hits in pool.map(lambda shard: _hits(results, shard, image_id), shards) for hit in hits]
    hits = [hit for hit in found if row in (None, hit.row)]
    if not hits:
        which = "" if row is None else f" in row {row}"
        raise UsageError(f"{results.output.uri} has no labelled image {image_id!r}{which}; failed ones are in errors/")
    if len(hits) > 1:
        raise UsageError(_choice(image_id, hits))
    return results.row(hits[0].shard, hits[0].position)


@dataclass(frozen=True, slots=True)
class _Hit:
    """One image of the id asked for. position: in the labels file of its shard. row: in the shard."""

    shard: str
    position: int
    row: int
    uri: str


def _choice(image_id: str, hits: Sequence[_Hit]) -> str:
    """What to say where several images have one id."""
    per_shard = Counter(hit.shard for hit in hits)
    listed = [
        f"  --shard {hit.shard}" + (f" --row {hit.row}" if per_shard[hit.shard] > 1 else "") + f"  ({hit.uri})"
        for hit in hits[:MOST_NAMED]
    ]
    more = [f"  and {len(hits) - MOST_NAMED} more"] if len(hits) > MOST_NAMED else []
    return "\n".join([f"{len(hits)} images have the id {image_id!r}; choose one with:", *listed, *more])


def _hits(results: Results, shard_id: str, image_id: str) -> list[_Hit]:
    """The rows with that id; reads the columns that tell, and only where there are such rows more than the ids."""
    fs, path = open_filesystem(f"{results.output.uri}/{labels_name(shard_id)}", results.output.storage_options)
    with open_stream(fs, path, with_retries(lambda: file_info(fs, path))) as stream:
        file = pq.ParquetFile(stream, pre_buffer=False)
        ids = file.read(columns=["image_id"])["image_id"]
        positions = pc.indices_nonzero(pc.equal(ids, pa.scalar(image_id)))
        if not len(positions):
            return []
        rows = file.read(columns=["row", "uri"]).take(positions).to_pylist()
    return [
        _Hit(shard_id, position, row["row"], row["uri"])
        for position, row in zip(positions.to_pylist(), rows, strict=True)
    ]


def show_image(results: Results, row: Mapping[str, Any], side: int) -> Image.Image:
    """Fetch the image of a labels row and draw it. side: longest side of the image in the picture, in pixels.

    Raises UsageError where the image is no longer there or has changed, and BadImageError where it cannot be decoded.
    """
    finder = results.finder()
    _, fetched = next(finder.read({row["row"]: row["uri"]}))
    try:
        pixels = finder.pixels(fetched, row)
    except BadImageError as error:
        if error.stage != "read":
            raise
        raise UsageError(f"the image {row['uri']} cannot be read: {error}") from error
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
