"""Finds an image of a run and draws its segments over it, with a legend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from maskmill.pipeline.errors import BadImageError, UsageError
from maskmill.pipeline.output.folder import labels_name
from maskmill.pipeline.pictures.overlay import grid, overlay_picture, tile
from maskmill.pipeline.results.reader import Results, open_results
from maskmill.pipeline.sources.shard import printable
from maskmill.pipeline.storage.files import StorageOptions

SEARCH_THREADS = 16
MOST_NAMED = 5


def find_row(results: Results, image_id: str, shard_id: str | None = None, row: int | None = None) -> dict[str, Any]:
    """Return the labels row of an image. row: its row in the shard. Without ``shard_id``, all shards are searched.

    Raises UsageError if there is no such image, or if several images have that id; these are listed.
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
    """An image with the wanted id. position: its place in the shard's labels file. row: its row in the shard."""

    shard: str
    position: int
    row: int
    uri: str


def _choice(image_id: str, hits: Sequence[_Hit]) -> str:
    """Return the message for several images with one id."""
    per_shard = Counter(hit.shard for hit in hits)
    listed = [
        f"  --shard {hit.shard}" + (f" --row {hit.row}" if per_shard[hit.shard] > 1 else "") + f"  ({hit.uri})"
        for hit in hits[:MOST_NAMED]
    ]
    more = [f"  and {len(hits) - MOST_NAMED} more"] if len(hits) > MOST_NAMED else []
    return "\n".join([f"{len(hits)} images have the id {image_id!r}; choose one with:", *listed, *more])


def _hits(results: Results, shard_id: str, image_id: str) -> list[_Hit]:
    """Return the rows with that id. Reads the column of ids, and other columns only if the id is there."""
    name = labels_name(shard_id)
    ids, _ = results.output.read_columns(name, ["image_id"])
    positions = pc.indices_nonzero(pc.equal(ids["image_id"], pa.scalar(image_id)))
    if not len(positions):
        return []
    table, _ = results.output.read_columns(name, ["row", "uri"])
    rows = table.take(positions).to_pylist()
    return [
        _Hit(shard_id, position, row["row"], row["uri"])
        for position, row in zip(positions.to_pylist(), rows, strict=True)
    ]


def show_image(results: Results, row: Mapping[str, Any], side: int) -> Image.Image:
    """Fetch the image of a labels row and draw it. side: longest side of the image in the picture, in pixels.

    Raises UsageError if the image is gone or has changed, and BadImageError if it cannot be decoded.
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


COLUMNS = ("uri", "row", "width", "height", "class_ids", "class_names", "scores", "areas", "rles")
"""The columns of the labels table that a picture needs."""


def overlay_grid(
    output_uri: str, *, images: int, columns: int, storage_options: StorageOptions | None = None
) -> Image.Image:
    """Draw a grid of the first ``images`` labelled images of a run. Raises UsageError if none is found."""
    results = open_results(output_uri, storage_options)
    tiles = [tile(image, row, results.colours) for image, row in islice(_labelled_images(results), images)]
    if not tiles:
        raise UsageError(f"{output_uri} has no labelled image, or its images are no longer where they were")
    return grid(tiles, columns)


def _labelled_images(results: Results) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Yield pixels and labels row of each labelled image, in order; images that are gone or changed are left out."""
    finder = results.finder()
    for shard_id in results.shard_ids:
        rows = {row["row"]: row for row in results.rows(shard_id, COLUMNS)}
        for number, fetched in finder.read({number: row["uri"] for number, row in rows.items()}):
            try:
                pixels = finder.pixels(fetched, rows[number])
            except BadImageError:
                continue
            yield pixels, rows[number]
