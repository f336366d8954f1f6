"""Reads the images of one shard: a tar, row groups of a Parquet file, entries of a manifest or files of a folder."""

from __future__ import annotations

import csv
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import IO

from maskmill.pipeline.sources.columns import ColumnError
from maskmill.pipeline.sources.files import READ_THREADS, Fetched, fetch, ordered_map
from maskmill.pipeline.sources.manifest import Entry, ManifestError, read_entries, resolve
from maskmill.pipeline.sources.named import NamedReader
from maskmill.pipeline.sources.parquet import TableRow, open_parquet, parquet_layout, read_parquet, row_group_rows
from maskmill.pipeline.sources.shard import (
    DEFAULT_LIMITS,
    SEGMENTATION_SUFFIX,
    DamagedError,
    ImageRecord,
    Kind,
    ReadLimits,
    Shard,
    ShardError,
    image_key,
    member_location,
    printable,
    segmentation_key,
)
from maskmill.pipeline.sources.stream import find_file, open_file
from maskmill.pipeline.sources.tar import count_tar_rows, read_tar
from maskmill.pipeline.storage.files import (
    StorageOptions,
    is_local,
    is_missing,
    open_filesystem,
    public_uri,
    without_query,
)
from maskmill.pipeline.storage.text_files import suffix_of


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """The arguments of one call of `read_shard`."""

    shard: Shard
    storage_options: StorageOptions | None
    with_segmentation: bool
    limits: ReadLimits


def read_shard(
    shard: Shard,
    storage_options: StorageOptions | None = None,
    *,
    with_segmentation: bool = False,
    limits: ReadLimits = DEFAULT_LIMITS,
) -> Iterator[ImageRecord]:
    """Yield every image of the shard in a fixed order, one record per row, bad ones with their error.

    Memory is bounded by the largest image, not by the shard. Transient storage errors are tried again, then raised;
    permission errors are raised; neither is taken for bad data. Raises ShardError, after the records before the
    damage, where the rest of the shard cannot be read.
    """
    reading = _Reading(shard=shard, storage_options=storage_options, with_segmentation=with_segmentation, limits=limits)
    rows_read = 0
    try:
        for record in _READERS[shard.kind](reading):
            yield record
            rows_read += 1
    except DamagedError as error:
        raise ShardError(shard.shard_id, str(error), rows_read) from error


def count_images(shard: Shard, storage_options: StorageOptions | None = None) -> int:
    """Return how many records the shard holds, reading as little as possible. Raises ShardError like `read_shard`."""
    if shard.kind in ("files", "manifest"):
        return shard.stop - shard.start
    try:
        with open_file(shard.location, storage_options) as stream:
            if shard.kind == "tar":
                return count_tar_rows(stream, segmentations=shard.segmentations)
            return sum(row_group_rows(open_parquet(stream))[shard.start : shard.stop])
    except DamagedError as error:
        raise ShardError(shard.shard_id, str(error), 0) from error


def _open(reading: _Reading) -> IO[bytes]:
    """Open the shard's file. Raises DamagedError if it is gone or has changed since it was listed."""
    shard = reading.shard
    try:
        found = find_file(shard.location, reading.storage_options)
    except FileNotFoundError as error:
        if not is_missing(error):
            raise
        raise DamagedError("the file is gone") from error
    if found.version != shard.version:
        raise DamagedError("the file has changed since it was listed")
    return found.open()


def _read_tar_shard(reading: _Reading) -> Iterator[ImageRecord]:
    with _open(reading) as stream:
        yield from read_tar(
            stream,
            reading.shard.uri,
            reading.limits,
            with_segmentation=reading.with_segmentation,
            segmentations=reading.shard.segmentations,
        )


def _read_parquet_shard(reading: _Reading) -> Iterator[ImageRecord]:
    shard = reading.shard
    with _open(reading) as stream:
        file = open_parquet(stream)
        layout = parquet_layout(file, shard.image_column)
        groups = range(shard.start, shard.stop or file.metadata.num_row_groups)
        rows = read_parquet(file, groups, layout, reading.limits, with_segmentation=reading.with_segmentation)
        if layout.uri is None:
            yield from _table_records(reading, rows)
        else:
            yield from _entry_records(reading, (_entry(row) for row in rows))


def _entry(row: TableRow) -> Entry:
    return Entry(uri=row.uri, image_id=row.image_id, error=row.error)


def _table_records(reading: _Reading, rows: Iterable[TableRow]) -> Iterator[ImageRecord]:
    """Yield the images in the table, and fetch those of which the table has only a path."""
    number = 0
    for is_elsewhere, run in groupby(rows, key=lambda row: row.uri is not None):
        if is_elsewhere:
            for record in _entry_records(reading, (_entry(row) for row in run)):
                yield replace(record, row=number)
                number += 1
            continue
        for row in run:
            yield _table_record(reading.shard, number, row)
            number += 1


def _table_record(shard: Shard, number: int, row: TableRow) -> ImageRecord:
    return ImageRecord(
        image_id=row.image_id or f"{shard.shard_id}/{number}",
        uri=f"{shard.uri}#row={row.position}",
        row=number,
        data=row.data,
        error=row.error,
        segmentation=row.segmentation,
    )


def _read_manifest_shard(reading: _Reading) -> Iterator[ImageRecord]:
    shard = reading.shard
    suffix = suffix_of(shard.location)
    with _open(reading) as stream:
        try:
            entries = read_entries(stream, suffix, shard.offset, shard.stop - shard.start, shard.image_column)
            yield from _entry_records(reading, entries)
        except (ColumnError, ManifestError, csv.Error) as error:
            raise DamagedError(f"damaged manifest: {error}") from error


def _entry_records(reading: _Reading, entries: Iterable[Entry]) -> Iterator[ImageRecord]:
    """Fetch the images that entries name. An id is the entry's, else its URI as written, without the extension."""
    shard = reading.shard
    named = NamedReader(location=shard.location, storage_options=reading.storage_options, limits=reading.limits)

    def load(entry: Entry) -> tuple[Fetched, bytes | None]:
        if entry.uri is None:
            return Fetched(error=entry.error), None
        return _with_label(reading, resolve(entry.uri, shard.location), named.read)

    for number, (entry, (fetched, label)) in enumerate(ordered_map(load, entries, READ_THREADS, _held_bytes)):
        uri = shard.uri if entry.uri is None else printable(public_uri(resolve(entry.uri, shard.location)))
        stem = f"{shard.shard_id}/{number}" if entry.uri is None else image_key(without_query(public_uri(entry.uri)))
        yield ImageRecord(
            image_id=printable(entry.image_id or stem),
            uri=uri,
            row=number,
            data=fetched.data,
            error=fetched.error,
            segmentation=label,
        )


def _read_folder_shard(reading: _Reading) -> Iterator[ImageRecord]:
    shard = reading.shard
    fs, root = open_filesystem(shard.location, reading.storage_options)

    def read(uri: str) -> Fetched:
        return fetch(uri, reading.storage_options, reading.limits)

    def load(name: str) -> tuple[Fetched, bytes | None]:
        return _with_label(reading, member_location(shard.location, name), read)

    threads = 1 if is_local(fs) else READ_THREADS
    for number, (name, (fetched, label)) in enumerate(ordered_map(load, shard.members, threads, _held_bytes)):
        if fetched.error is not None and is_local(fs) and not os.path.isdir(root):
            # A missing folder is no error of the images: the disk may have been unmounted.
            raise FileNotFoundError(f"the folder {shard.uri} is gone")
        yield ImageRecord(
            image_id=(segmentation_key(name) if shard.segmentations else None) or image_key(name),
            uri=printable(member_location(shard.uri, name)),
            row=number,
            data=fetched.data,
            error=fetched.error,
            segmentation=label,
        )


def _held_bytes(result: tuple[Fetched, bytes | None]) -> int:
    fetched, label = result
    return len(fetched.data or b"") + len(label or b"")


def _with_label(reading: _Reading, uri: str, read: Callable[[str], Fetched]) -> tuple[Fetched, bytes | None]:
    fetched = read(uri)
    if not reading.with_segmentation or fetched.error is not None:
        return fetched, None
    return fetched, read(posixpath.splitext(uri)[0] + SEGMENTATION_SUFFIX).data


_READERS: dict[Kind, Callable[[_Reading], Iterator[ImageRecord]]] = {
    "tar": _read_tar_shard,
    "parquet": _read_parquet_shard,
    "manifest": _read_manifest_shard,
    "files": _read_folder_shard,
}
