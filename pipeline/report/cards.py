"""Makes the report's card of one image: a thumbnail embedded in the page, with the outlines of its segments over it."""

from __future__ import annotations

import base64
import io
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from PIL import Image

from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.masks.maps import sampled_segment_map
from maskmill.pipeline.masks.outlines import trace_rings
from maskmill.pipeline.pictures.palette import Colour
from maskmill.pipeline.report.sample import Key
from maskmill.pipeline.sources.files import Fetched
from maskmill.pipeline.sources.finder import ImageFinder, path_on_disk, place_of

THUMBNAIL_PX = 384
OUTLINE_PX = 256
"""The long sides, in pixels, of the thumbnail and of the grid on which segments are outlined."""
THUMBNAIL_QUALITY = 82
MOST_SHARD_BYTES = 256 * 2**20
"""How many image bytes are read of one tar or table; images after that are shown without their pixels."""
READERS = 4

_NOT_REACHED = f"not shown: it lies behind the first {MOST_SHARD_BYTES // 2**20} MiB of its shard"


@dataclass(frozen=True, kw_only=True, slots=True)
class CardSegment:
    """One segment. share: of the image's pixels. path: SVG path data on the card's grid, "" for a too small segment."""

    position: int
    class_id: int
    name: str
    colour: str
    score: float
    area: int
    share: float
    stability: float
    agreement: float
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One image. thumbnail: a data URI, or "" for the reason in ``note``.

    link: an address that a browser can open, "" if there is none. command: the command that shows the image. grid:
    (width, height) of the outlines' coordinates. segments: largest first.
    """

    key: Key
    image_id: str
    uri: str
    link: str
    command: str
    width: int
    height: int
    coverage: float
    grid: tuple[int, int]
    thumbnail: str
    note: str
    segments: tuple[CardSegment, ...]


def make_cards(
    rows: Mapping[Key, Mapping[str, Any]], finder: ImageFinder, colours: Sequence[Colour], output_uri: str
) -> dict[Key, Card]:
    """Fetch the images and make their cards; a few shards are read at a time."""
    by_shard: dict[str, list[Key]] = {}
    for key in rows:
        by_shard.setdefault(key[0], []).append(key)

    def of_shard(keys: list[Key]) -> list[Card]:
        pictures = dict(_pictures(finder, {row: rows[shard, row] for shard, row in keys}))
        return [_card(key, rows[key], pictures.get(key[1], ("", _NOT_REACHED)), colours, output_uri) for key in keys]

    with ThreadPoolExecutor(READERS) as pool:
        return {card.key: card for cards in pool.map(of_shard, by_shard.values()) for card in cards}


def _pictures(finder: ImageFinder, rows: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield (row, (thumbnail, note)); images that cannot be read have a note instead of a thumbnail."""
    for row, fetched in finder.read({row: labels["uri"] for row, labels in rows.items()}, MOST_SHARD_BYTES):
        try:
            picture = _thumbnail(finder, fetched, rows[row]), ""
        except BadImageError as error:
            picture = "", f"not shown: {error}"
        yield row, picture


def _thumbnail(finder: ImageFinder, fetched: Fetched, labels: Mapping[str, Any]) -> str:
    picture = Image.fromarray(finder.pixels(fetched, labels))
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS, reducing_gap=3.0)
    sink = io.BytesIO()
    picture.save(sink, "WEBP", quality=THUMBNAIL_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode("ascii")


def _card(
    key: Key, row: Mapping[str, Any], picture: tuple[str, str], colours: Sequence[Colour], output_uri: str
) -> Card:
    grid_map = sampled_segment_map(row["rles"], row["height"], row["width"], OUTLINE_PX)
    pixels = row["width"] * row["height"]
    segments = [
        CardSegment(
            position=position,
            class_id=class_id,
            name=row["class_names"][position],
            colour="#{:02x}{:02x}{:02x}".format(*colours[class_id]),
            score=row["scores"][position],
            area=row["areas"][position],
            share=row["areas"][position] / pixels,
            stability=row["stability"][position],
            agreement=row["agreement"][position],
            path=path_data(grid_map == position),
        )
        for position, class_id in enumerate(row["class_ids"])
    ]
    return Card(
        key=key,
        image_id=row["image_id"],
        uri=row["uri"],
        link=browser_link(row["uri"]),
        command=show_command(output_uri, row),
        width=row["width"],
        height=row["height"],
        coverage=row["coverage"],
        grid=(grid_map.shape[1], grid_map.shape[0]),
        thumbnail=picture[0],
        note=picture[1],
        segments=tuple(sorted(segments, key=lambda segment: -segment.area)),
    )


def path_data(mask: np.ndarray) -> str:
    """Return SVG path data of a mask's outlines, for ``fill-rule: evenodd``."""
    parts = []
    for ring in trace_rings(mask):
        steps = np.diff(ring, axis=0)
        moves = "".join(f"h{dx}" if dx else f"v{dy}" for dx, dy in steps.tolist())
        parts.append(f"M{ring[0, 0]} {ring[0, 1]}{moves}z")
    return "".join(parts)


def show_command(output_uri: str, row: Mapping[str, Any]) -> str:
    """Return the command that shows the image, with id, shard and row, since several images may have the same id."""
    options = ["--shard", row["shard"], "--row", str(row["row"])]
    # Put "--" before the id, since an id that begins with a hyphen would be taken for an option.
    separator = ["--"] if row["image_id"].startswith("-") else []
    return shlex.join(["maskmill", "show", *options, *separator, output_uri, row["image_id"]])


def browser_link(uri: str) -> str:
    """Return an address at which a browser shows the image, "" if there is none (members of archives, buckets)."""
    scheme = urlsplit(uri).scheme.lower()
    if scheme in ("http", "https"):
        return "" if "#" in uri else uri
    is_local_file = uri.startswith("/") and place_of(uri).kind == "file"
    if not is_local_file:
        return ""
    return f"file://{quote(os.fsencode(path_on_disk(uri)))}"
