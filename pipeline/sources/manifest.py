"""Reads manifests: lists of image URIs as text, CSV or JSON lines; a part is read without the entries before it."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from maskmill.pipeline.errors import BadImageError, UsageError
from maskmill.pipeline.sources.columns import URI_COLUMNS, ColumnError, entry_columns
from maskmill.pipeline.uris import without_query

TEXT_SUFFIXES = (".txt", ".csv", ".jsonl", ".ndjson")
MAX_ENTRY_BYTES = 64 * 2**20
"""A file with a longer line, or a CSV with a longer field, is no manifest."""
_CHUNK_BYTES = 2**20
_MAX_URI_LENGTH = 32 * 2**10
_SHOWN_LENGTH = 60
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:://|::)|/|(?:file:/|data:)", re.IGNORECASE)


class ManifestError(Exception):
    """The file cannot be cut into entries."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of a manifest: the URI of the image and its id, if the manifest gives one, or an error."""

    uri: str | None = None
    image_id: str | None = None
    error: BadImageError | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Consecutive entries of a manifest.

    start, stop: their positions. offset: the byte at which the first one begins. size_bytes: the length of all of them.
    digest: a hash of their bytes.
    """

    start: int
    stop: int
    offset: int
    size_bytes: int
    digest: bytes


class _Lines:
    """Yields the lines of a binary file as text, and keeps their bytes until `take` returns them.

    A line ends with a line feed, a carriage return or both.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._taken: list[bytes] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._lines():
            self._taken.append(line)
            yield line.decode("utf-8-sig", "surrogateescape")

    def _lines(self) -> Iterator[bytes]:
        begun: list[bytes] = []
        while chunk := self._stream.read(_CHUNK_BYTES):
            if begun and begun[-1].endswith(b"\r") and not chunk.startswith(b"\n"):
                yield b"".join(begun)
                begun = []
            pieces = chunk.splitlines(keepends=True)
            for piece in pieces:
                begun.append(piece)
                # After a carriage return at the end of a chunk, the next chunk may begin with a line feed.
                if piece.endswith(b"\n") or (piece.endswith(b"\r") and piece is not pieces[-1]):
                    yield b"".join(begun)
                    begun = []
            if len(begun) > MAX_ENTRY_BYTES // _CHUNK_BYTES:
                raise ManifestError(f"a line of more than {MAX_ENTRY_BYTES:,} bytes; this is no list")
        if begun:
            yield b"".join(begun)

    def take(self) -> bytes:
        taken, self._taken = b"".join(self._taken), []
        return taken


def split_manifest(stream: IO[bytes], suffix: str, size: int) -> Iterator[Run]:
    """Yield runs of up to ``size`` entries. Raises ManifestError or csv.Error where the file is no manifest."""
    start = position = offset = length = 0
    digest = hashlib.sha256()
    for raw, is_entry in _raw_entries(stream, suffix):
        if is_entry and position - start == size:
            yield Run(start=start, stop=position, offset=offset, size_bytes=length, digest=digest.digest())
            start, offset, length, digest = position, offset + length, 0, hashlib.sha256()
        if is_entry or position > start:
            digest.update(raw)
            length += len(raw)
        else:
            offset += len(raw)
        position += is_entry
    if position > start:
        yield Run(start=start, stop=position, offset=offset, size_bytes=length, digest=digest.digest())


def _raw_entries(stream: IO[bytes], suffix: str) -> Iterator[tuple[bytes, bool]]:
    """Yield the raw bytes of every record, and whether it is an entry and no header, blank line or comment."""
    lines = _Lines(stream)
    if suffix == ".csv":
        # The CSV reader consumes exactly the lines of the record it returns, also where a quoted field spans several.
        has_header, raw = False, b""
        for record in _csv_records(lines):
            raw = lines.take()
            yield raw, has_header and bool(record)
            has_header = has_header or bool(record)
        if raw.count(b'"') % 2:
            raise ManifestError("a quoted field begins in the last record and never ends")
    else:
        for line in lines:
            yield lines.take(), _is_entry_line(line)


def _csv_records(lines: _Lines) -> Iterator[list[str]]:
    # The default limit of Python is 128 KiB a field.
    csv.field_size_limit(MAX_ENTRY_BYTES)
    return csv.reader(iter(lines))


def _is_entry_line(line: str) -> bool:
    stripped = line.strip()
    return bool(stripped) and not stripped.startswith("#")


def read_entries(
    stream: IO[bytes], suffix: str, offset: int, count: int, image_column: str | None = None
) -> Iterator[Entry]:
    """Yield ``count`` entries beginning at byte ``offset``. Raises ColumnError where a CSV has no column of URIs."""
    header: list[str] = []
    if suffix == ".csv":
        header = csv_header(stream)
        columns = entry_columns(header, image_column)
    stream.seek(offset)
    lines = _Lines(stream)
    given = 0
    if suffix == ".csv":
        for record in _csv_records(lines):
            if given == count:
                return
            if record:
                yield _csv_entry(dict(zip(header, record, strict=False)), columns)
                given += 1
        return
    for line in lines:
        if given == count:
            return
        if _is_entry_line(line):
            yield _entry(line, None) if suffix == ".txt" else _json_entry(line, image_column)
            given += 1


def csv_header(stream: IO[bytes]) -> list[str]:
    """Return the column names in the first record of a CSV."""
    stream.seek(0)
    return [name.strip() for name in next(filter(None, _csv_records(_Lines(stream))), [])]


def check_manifest(stream: IO[bytes], suffix: str, image_column: str | None) -> None:
    """Raise UsageError if the manifest's columns, or its first entry, hold no URI."""
    stream.seek(0)
    if stream.read(2) in _UTF16_MARKS:
        raise UsageError("the manifest is UTF-16; save it as UTF-8")
    try:
        if suffix == ".csv":
            entry_columns(csv_header(stream), image_column)
            return
        first = next(read_entries(stream, suffix, 0, 1, image_column), None)
    except ColumnError as error:
        raise UsageError(str(error)) from error
    if first is None:
        raise UsageError("the manifest is empty")
    if first.error is not None:
        raise UsageError(f"the first entry is of no use: {first.error.message}")


def _csv_entry(record: dict[str, str], columns: tuple[str, str | None]) -> Entry:
    uri, image_id = columns
    return _entry(record.get(uri), record.get(image_id) if image_id else None)


def _json_entry(line: str, image_column: str | None) -> Entry:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _bad(f"not JSON: {error}")
    if not isinstance(record, dict):
        return _bad("not a JSON object")
    try:
        uri, image_id = entry_columns([str(name) for name in record], image_column)
    except ColumnError as error:
        return _bad(str(error))
    return _entry(record[uri], record[image_id] if image_id else None)


def _entry(uri: object, image_id: object) -> Entry:
    if not isinstance(uri, str) or not uri.strip():
        return _bad(f"no URI in the column ({', '.join(URI_COLUMNS)})")
    if len(uri) > _MAX_URI_LENGTH:
        return _bad(f"an address of {len(uri):,} characters, more than {_MAX_URI_LENGTH:,}: {uri[:_SHOWN_LENGTH]} ...")
    return Entry(uri=uri.strip(), image_id=None if image_id in (None, "") else str(image_id))


def _bad(message: str) -> Entry:
    return Entry(error=BadImageError("read", "bad_manifest_entry", message))


def resolve(uri: str, location: str) -> str:
    """Return ``uri``, made absolute by the manifest's folder if it is relative. location: the manifest's address."""
    if _ABSOLUTE.match(uri):
        return uri
    # posixpath.join is not used: the folder of "s3://bucket//list.txt" is "s3://bucket/", and needs another slash.
    return f"{without_query(location).rpartition('/')[0]}/{uri}"
