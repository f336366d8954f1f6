"""The two things that sources yield: shards (units of work and of commit), and the image records read from them."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.limits import MAX_IMAGE_BYTES
from maskmill.pipeline.storage.files import without_query

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".jfi", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".btf", ".tf8", ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx", ".jpf"),
)
"""Endings of the files that are taken for images. Their first bytes then tell the format, or that there is none."""
SEGMENTATION_SUFFIX = ".seg.png"
"""``x.seg.png`` is the ground truth of image ``x`` and never an image itself."""

Kind = Literal["tar", "parquet", "files", "manifest"]
_PREFIX_LENGTH = 40
_SHARD_ID = re.compile(r"[A-Za-z0-9_-]+-[0-9a-f]{12}")
_ESCAPED_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One unit of work: a tar, a run of a Parquet file's row groups, up to K files of a folder, or K manifest entries.

    shard_id: names the output files; it depends on this part of the input only, and is safe as a file name.
    uri: where the data lies, for people and tables: credentials in it are blanked out.
    location: the same as needed to open it.
    start, stop: row groups (parquet), positions in the sorted folder (files) or entries (manifest); 0, 0 for a tar.
    offset: byte at which a text manifest's entry ``start`` begins.
    members: files of a folder shard, relative to ``location``.
    size_bytes: stored size of this part of the input (a share of the file where only part of it is meant).
    version: entity tag or modification time with size; a changed input has another version.
    image_column: Parquet column the user named, None to find it.
    segmentations: the records are the ``x.seg.png`` of a tar or folder, under the ids of their images.
    """

    shard_id: str
    kind: Kind
    uri: str
    location: str
    start: int = 0
    stop: int = 0
    offset: int = 0
    members: tuple[str, ...] = ()
    size_bytes: int
    version: str
    image_column: str | None = None
    segmentations: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """One input row. Exactly one of ``data`` (encoded image bytes) and ``error`` (stage "read") is set.

    image_id: the name without extension (tar, folder), the id column's value (Parquet, manifests), or shard and row.
    row: position in the shard, counted over all rows from 0.
    segmentation: encoded ground-truth label map, where it was asked for and exists.
    """

    image_id: str
    uri: str
    row: int
    data: bytes | None = None
    error: BadImageError | None = None
    segmentation: bytes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadLimits:
    """Bounds while reading.

    max_image_bytes: a larger file or member becomes an error row and is not read.
    own_stores: addresses in stores that are treated as the store that a list lies in.
    allow_local: a list that lies elsewhere may name files of this machine.
    allow_private: a list may name web servers at private, loopback and link-local addresses.
    """

    max_image_bytes: int = MAX_IMAGE_BYTES
    own_stores: tuple[str, ...] = ()
    allow_local: bool = False
    allow_private: bool = False


DEFAULT_LIMITS = ReadLimits()
HEADERS_ONLY = ReadLimits(max_image_bytes=0)
"""With these, no image is read: each one is a record with an error."""


def read_limits(config: Mapping[str, Any]) -> ReadLimits:
    """Return the bounds in a run's configuration, as in its run.json; runs of older versions lack some of them."""
    return ReadLimits(
        max_image_bytes=config.get("max_image_bytes", DEFAULT_LIMITS.max_image_bytes),
        own_stores=tuple(config.get("own_store", ())),
        allow_local=config.get("allow_local", False),
        allow_private=config.get("allow_private", False),
    )


class ShardError(Exception):
    """A shard cannot be read to its end: it is truncated, corrupt, or has changed.

    It is raised after every row before the damage has been yielded; ``rows_read`` counts those rows.
    """

    def __init__(self, shard_id: str, message: str, rows_read: int) -> None:
        super().__init__(f"shard {shard_id}: {message} (after {rows_read} images)")
        self.shard_id = shard_id
        self.message = message
        self.rows_read = rows_read

    def __reduce__(self) -> tuple[type[ShardError], tuple[str, str, int]]:
        return (type(self), (self.shard_id, self.message, self.rows_read))


class DamagedError(Exception):
    """Damage found by a format reader, which does not know its shard; `read_shard` turns it into a ShardError."""


def member_location(root: str, name: str) -> str:
    """Return the location of a listed file. Slashes stay as they are: "a//b" and "a/b" are two objects of a store."""
    return root + name if root.endswith("/") else f"{root}/{name}"


def member_name(root: str, path: str) -> str:
    """Return the name of a listed file below ``root``; `member_location` is the inverse."""
    return path.removeprefix(root if root.endswith("/") else f"{root}/") if root else path


def too_large(size: int, limits: ReadLimits) -> BadImageError:
    """Return the error of an image with more stored bytes than the limit."""
    return BadImageError("read", "too_large", f"{size} bytes are more than the limit of {limits.max_image_bytes}")


def is_image_name(name: str) -> bool:
    """Whether a file or member of this name is taken for an image. Names beginning with a dot are not."""
    base = posixpath.basename(name).lower()
    return base.endswith(IMAGE_SUFFIXES) and not base.endswith(SEGMENTATION_SUFFIX) and not base.startswith(".")


def image_key(name: str) -> str:
    """Return ``name`` without its extension and a leading "./", as text that any table can hold."""
    return printable(posixpath.splitext(name)[0].removeprefix("./"))


def segmentation_key(name: str) -> str | None:
    """Return the key of the image that ``name`` is the ground truth of, None if it is no ground truth."""
    base = posixpath.basename(name)
    if base.startswith(".") or not name.lower().endswith(SEGMENTATION_SUFFIX):
        return None
    return printable(name[: -len(SEGMENTATION_SUFFIX)].removeprefix("./"))


def printable(name: str) -> str:
    """Return ``name`` as valid Unicode: bytes of file names that are not UTF-8 appear as backslash escapes."""
    return _encoded(name).decode("utf-8", "backslashreplace")


def _encoded(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # JSON can hold halves of surrogate pairs, which have no bytes.
        return name.encode("utf-8", "backslashreplace")


def unprintable(text: str) -> str:
    """Undo :func:`printable`: backslash escapes become the surrogates by which Python denotes such bytes in file names.

    A name that holds such an escape as text is changed as well, so callers first try the text unchanged.
    """
    return _ESCAPED_BYTE.sub(lambda match: chr(0xDC00 + int(match[1], 16)), text)


def shard_id(uri: str, content: Iterable[str | bytes] = (), start: int | None = None) -> str:
    """Return a readable, file-name safe, deterministic id: the stem of ``uri``, ``start`` if given, and a short hash.

    content: tells this shard from others of the same URI, for example by the names of its members.
    """
    digest = hashlib.sha256(_encoded(uri))
    for part in content:
        encoded = part if isinstance(part, bytes) else _encoded(part)
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    stem = posixpath.basename(without_query(uri).rstrip("/"))
    stem = re.sub(r"\.(tar|tar\.gz|tgz|parquet|pq|txt|csv|jsonl|ndjson)$", "", stem, flags=re.IGNORECASE)
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:_PREFIX_LENGTH] or "shard"
    position = "" if start is None else f"-{start:08d}"
    return f"{stem}{position}-{digest.hexdigest()[:12]}"


def is_shard_id(name: str) -> bool:
    """Whether ``name`` has the form of the ids that `shard_id` returns."""
    return _SHARD_ID.fullmatch(name) is not None
