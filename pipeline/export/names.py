"""Names of images in an export: unique, the same every time, and valid for file systems and readers."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from maskmill.pipeline.sources.finder import place_of
from maskmill.pipeline.storage.files import without_query

_MOST_PART_BYTES = 200
"""The longest part of a path. File systems take 255 bytes, including the ending, a number and a digest."""
_MOST_NAME_BYTES = 600
"""The longest name. Object stores take keys of 1,024 bytes, including the destination, the folder and the shard."""
_WRITTEN_SUFFIXES = re.compile(r"\.(png|txt|jpg|jpeg|tif|tiff|webp|bmp|gif)$", re.IGNORECASE)
_IMAGE_SUFFIX = re.compile(r"\.(jpe?g|png|webp|tiff?|bmp|gif)$", re.IGNORECASE)


class Namer:
    """Gives every image a unique name that is safe in paths and as close to the image's id as possible.

    renamed: how many images got another name because an earlier image had their name.
    """

    def __init__(self) -> None:
        self.renamed = 0
        self._shard = ""
        self._used: set[str] = set()

    def stem(self, row: Mapping[str, Any]) -> str:
        """Return ``shard/name``; shard by shard. Names that differ in case or in the form of accents count as equal."""
        if row["shard"] != self._shard:
            self._shard, self._used = row["shard"], set()
        image_id = unicodedata.normalize("NFC", row["image_id"].removeprefix(f"{row['shard']}/"))
        parts = [part for part in map(_safe, image_id.split("/")) if part]
        name = _shortened("/".join([*map(_folder, parts[:-1]), *parts[-1:]]) or "image", image_id)
        if _key(name) in self._used:
            self.renamed += 1
        while _key(name) in self._used:
            name = f"{name}-{row['row']:06d}"
        self._used.add(_key(name))
        return f"{row['shard']}/{name}"


def _safe(part: str) -> str:
    """Return one part of a path without characters that some file systems refuse, and no dots or spaces at its ends."""
    # A run of unsafe characters becomes one underscore.
    text = re.sub("\0+", "_", "".join(c if _is_safe(c) else "\0" for c in part))
    return text.strip(" .")


def _is_safe(character: str) -> bool:
    return character in "_.- " or unicodedata.category(character)[0] in "LMN"


def _folder(part: str) -> str:
    """Return the name of a folder, changed where it is the name of a written file or a word that trainers look for.

    YOLO trainers find labels by replacing the last "/images/" of a path by "/labels/".
    """
    return f"{part}_" if part.casefold() == "images" or _WRITTEN_SUFFIXES.search(part) else part


def _shortened(name: str, image_id: str) -> str:
    """Return ``name`` with too long parts, or as a whole, cut; a digest of the id keeps cut names unique."""
    digest = hashlib.sha256(image_id.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    parts = [
        part if len(part.encode()) <= _MOST_PART_BYTES else f"{_cut(part, _MOST_PART_BYTES - 13)}-{digest}"
        for part in name.split("/")
    ]
    short = "/".join(parts)
    return short if len(short.encode()) <= _MOST_NAME_BYTES else f"{_cut(parts[-1], _MOST_PART_BYTES - 13)}-{digest}"


def _cut(text: str, most_bytes: int) -> str:
    return text.encode()[:most_bytes].decode(errors="ignore").rstrip(" .")


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


class SourceNames:
    """The names that images have in their source, for exports without images, made unique where they repeat.

    by_stem: names that differ in their ending only count as equal, for readers that ignore the ending. renamed: as in
    Namer. The names take 8 to 32 bytes of memory per image.
    """

    def __init__(self, *, by_stem: bool) -> None:
        self.renamed = 0
        self._by_stem = by_stem
        self._used = _Hashes()

    def name(self, row: Mapping[str, Any]) -> str:
        """Return the image's id with the ending of its URI, and with shard and row added where that name is taken."""
        name = source_name(row)
        if self._add(name):
            return name
        self.renamed += 1
        suffix = source_suffix(row["uri"])
        name = f"{name.removesuffix(suffix)}-{row['shard']}-{row['row']:06d}{suffix}"
        self._add(name)
        return name

    def _add(self, name: str) -> bool:
        return self._used.add(_IMAGE_SUFFIX.sub("", name) if self._by_stem else name)


def source_name(row: Mapping[str, Any]) -> str:
    """Return the name of an image in its source: its id with the ending of its URI, if it has one."""
    return row["image_id"] + source_suffix(row["uri"])


def source_suffix(uri: str) -> str:
    """Return the ending of the image's file or archive member, "" where there is none.

    Only a web address has a query; in other URIs "?" and "#" are part of the name.
    """
    place = place_of(uri)
    if place.kind == "table":
        return ""
    return PurePosixPath(place.member if place.kind == "tar" else without_query(uri)).suffix


class _Hashes:
    """A set of texts, kept as 64-bit hashes in a table that is at most half full: 8 to 32 bytes per text."""

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 * 1024))
        self._count = 0

    def add(self, text: str) -> bool:
        """Add a text and return whether it is new."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        new = self._insert(int.from_bytes(digest, "little") or 1)
        self._count += new
        if 2 * self._count > len(self._table):
            former, self._table = self._table, array("Q", bytes(16 * len(self._table)))
            for value in filter(None, former):
                self._insert(value)
        return new

    def _insert(self, value: int) -> bool:
        mask = len(self._table) - 1
        place = value & mask
        while self._table[place]:
            if self._table[place] == value:
                return False
            place = (place + 1) & mask
        self._table[place] = value
        return True
