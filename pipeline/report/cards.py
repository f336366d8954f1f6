"""Makes what the report shows of one image: a thumbnail inside the page and the outlines of its segments over it."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from PIL import Image

from pipeline.contours import trace_rings
from pipeline.decode import decode_image
from pipeline.errors import BadImageError, UsageError
from pipeline.images import ImageFinder
from pipeline.palette import Colour
from pipeline.report.sample import Key
from pipeline.segment_maps import sampled_segment_map
from pipeline.sources.shard import DamagedError
from pipeline.storage import is_missing, is_permission, is_transient

THUMBNAIL_PX = 384
OUTLINE_PX = 256
"""Long sides of the thumbnail, and of the grid on which segments are outlined."""
THUMBNAIL_QUALITY = 82
MOST_SHARD_BYTES = 256 * 2**20
"""Image bytes read of one tar or table; images behind that are shown without their pixels."""
READERS = 4

_NOT_REACHED = f"not shown: it lies behind the first {MOST_SHARD_BYTES // 2**20} MiB of its shard"


@dataclass(frozen=True, kw_only=True, slots=True)
class CardSegment:
    """One segment. share: of the image's pixels. path: SVG path data on the card's grid, empty if too small for it."""

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
    """One image. thumbnail: a data URI, "" if there is none, for the reason in ``note``.

    link: an address a browser opens, "" if there is none. command: shows the image. grid: (width, height) of the
    outlines' coordinates. segments: largest first.
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
    """Fetch the images and make their cards; shards are read a few at a time."""
    by_shard: dict[str, list[Key]] = {}
    for key in rows:
        by_shard.setdefault(key[0], []).append(key)

    def of_shard(keys: list[Key]) -> list[Card]:
        pictures = dict(_pictures(finder, {row: rows[shard, row] for shard, row in keys}))
        return [_card(key, rows[key], pictures.get(key[1], ("", _NOT_REACHED)), colours, output_uri) for key in keys]

    with ThreadPoolExecutor(READERS) as pool:
        return {card.key: card for cards in pool.map(of_shard, by_shard.values()) for card in cards}


def _pictures(finder: ImageFinder, rows: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield (row, (thumbnail, note)); images that are out of reach have a note instead of a thumbnail."""
    try:
        for row, fetched in finder.read({row: labels["uri"] for row, labels in rows.items()}, MOST_SHARD_BYTES):
            if fetched.data is None:
                yield row, ("", f"not shown: {fetched.error}")
            else:
                yield row, _thumbnail(fetched.data, rows[row])
    except (DamagedError, UsageError) as error:
        reason = str(error)
    except Exception as error:
        # The labels may be open to people who cannot see the images, or the images may have moved since.
        if not (is_missing(error) or is_permission(error) or is_transient(error)):
            raise
        reason = type(error).__name__
    else:
        return
    yield from ((row, ("", f"not shown: its source cannot be read ({reason})")) for row in rows)


def _thumbnail(data: bytes, labels: Mapping[str, Any]) -> tuple[str, str]:
    try:
        pixels = decode_image(data)
    except BadImageError as error:
        return "", f"not shown: {error}"
    if pixels.shape[:2] != (labels["height"], labels["width"]):
        return "", "not shown: the image has changed since it was labelled"
    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS, reducing_gap=3.0)
    sink = io.BytesIO()
    picture.save(sink, "WEBP", quality=THUMBNAIL_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode("ascii"), ""


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
        command=shlex.join(["maskmill", "show", output_uri, row["image_id"]]),
        width=row["width"],
        height=row["height"],
        coverage=row["coverage"],
        grid=(grid_map.shape[1], grid_map.shape[0]),
        thumbnail=picture[0],
        note=picture[1],
        segments=tuple(sorted(segments, key=lambda segment: -segment.area)),
    )


def path_data(mask: np.ndarray) -> str:
    """SVG path data of a mask's outlines, for ``fill-rule: evenodd``."""
    parts = []
    for ring in trace_rings(mask):
        steps = np.diff(ring, axis=0)
        moves = "".join(f"h{dx}" if dx else f"v{dy}" for dx, dy in steps.tolist())
        parts.append(f"M{ring[0, 0]} {ring[0, 1]}{moves}z")
    return "".join(parts)


def browser_link(uri: str) -> str:
    """An address under which a browser shows the image, "" if there is none (members of archives, buckets)."""
    scheme = urlsplit(uri).scheme.lower()
    if scheme in ("http", "https"):
        return "" if "#" in uri else uri
    is_local_file = not scheme and uri.startswith("/") and "#" not in PurePosixPath(uri).name
    return f"file://{quote(uri)}" if is_local_file else ""
