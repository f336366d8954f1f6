"""Cuts an input into shards."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import IO

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.sources.columns import ColumnError, table_layout
from maskmill.pipeline.sources.files import ordered_map
from maskmill.pipeline.sources.listing import LISTING_THREADS, File, Listing, list_files
from maskmill.pipeline.sources.manifest import ManifestError, check_manifest, split_manifest
from maskmill.pipeline.sources.parquet import open_parquet, row_group_rows
from maskmill.pipeline.sources.shard import HEADERS_ONLY, DamagedError, Shard, printable, shard_id
from maskmill.pipeline.sources.stream import open_file
from maskmill.pipeline.sources.tar import read_tar
from maskmill.pipeline.storage.files import StorageOptions, public_uri
from maskmill.pipeline.storage.text_files import suffix_of

_PROBED_TARS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cut:
    """How to cut. shard_size: images per shard of folders and manifests; at least so many rows per Parquet shard.

    prefer_segmentations: where there are ``x.seg.png``, shards consist of those files.
    """

    shard_size: int
    image_column: str | None
    storage_options: StorageOptions | None
    prefer_segmentations: bool

    def open_file(self, file: File) -> IO[bytes]:
        """Open a listed file."""
        return open_file(file.location, self.storage_options)


def list_shards(
    uri: str,
    *,
    storage_options: StorageOptions | None = None,
    shard_size: int = 1000,
    limit: int | None = None,
    image_column: str | None = None,
    prefer_segmentations: bool = False,
    listing: Listing | None = None,
) -> list[Shard]:
    """Return the shards of an input, in a fixed order, the first ``limit`` of them if given.

    uri: tars, Parquet files, images or manifests as a file, a folder, a glob or a brace pattern, any fsspec URI.
    prefer_segmentations: where a folder or the first tars hold ``x.seg.png``, shards consist of those, not of images.
    listing: the files of ``uri``, where they are known already.
    Raises UsageError, after looking at names and the first file only, when there is nothing to read or nothing in it
    is an image. A damaged file among good ones is not found here; reading its shard raises ShardError.
    """
    if shard_size < 1 or (limit is not None and limit < 1):
        raise UsageError("shard_size and limit must be at least 1")
    if listing is None:
        listing = list_files(uri, storage_options, prefer_segmentations=prefer_segmentations)
    cut = _Cut(
        shard_size=shard_size,
        image_column=image_column,
        storage_options=storage_options,
        prefer_segmentations=prefer_segmentations,
    )
    shards = list(islice(_CUTTERS[listing.kind](listing, cut), limit))
    if not shards:
        raise UsageError(f"there is no image in {public_uri(uri)}")
    return shards


def _cut_tars(listing: Listing, cut: _Cut) -> Iterator[Shard]:
    probed = listing.files[:_PROBED_TARS]
    segmentations = cut.prefer_segmentations and _probe_tars(probed, cut, segmentations=True) is None
    if not segmentations and (reason := _probe_tars(probed, cut)):
        raise UsageError(f"there is no image in {', '.join(public_uri(file.location) for file in probed)}{reason}")
    for file in listing.files:
        uri = printable(public_uri(file.location))
        yield Shard(
            shard_id=shard_id(uri),
            kind="tar",
            uri=uri,
            location=file.location,
            size_bytes=file.size_bytes,
            version=file.version,
            segmentations=segmentations,
        )


def _probe_tars(files: list[File], cut: _Cut, *, segmentations: bool = False) -> str | None:
    """Return None if any of these tars has a row to read, else the reason why none has."""
    damage = None
    for file in files:
        try:
            with cut.open_file(file) as stream:
                if next(read_tar(stream, "", HEADERS_ONLY, segmentations=segmentations), None) is not None:
                    return None
        except DamagedError as error:
            damage = error
    return f": {damage}" if damage else " (members need an extension such as .jpg or .png)"


def _cut_parquet(listing: Listing, cut: _Cut) -> Iterator[Shard]:
    def footer(file: File) -> list[int] | DamagedError | ColumnError:
        try:
            with cut.open_file(file) as stream:
                parquet = open_parquet(stream)
                table_layout(parquet.schema_arrow, cut.image_column)
                return row_group_rows(parquet)
        except (DamagedError, ColumnError) as error:
            return error

    good = False
    for file, rows in ordered_map(footer, listing.files, LISTING_THREADS):
        if isinstance(rows, Exception):
            # The first file must be readable; a damaged one after it is found when its shard is read.
            if not good:
                raise UsageError(f"{public_uri(file.location)}: {rows}") from rows
            yield _parquet_shard(file, (0, 0), cut, 1.0)
            continue
        good = True
        total = max(1, sum(rows))
        for start, stop in _runs(rows, cut.shard_size):
            yield _parquet_shard(file, (start, stop), cut, sum(rows[start:stop]) / total)


def _runs(rows: list[int], shard_size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of runs of row groups with at least ``shard_size`` rows; a short rest joins the last run."""
    starts = [0]
    length = 0
    for group, count in enumerate(rows):
        if length >= shard_size and sum(rows[group:]) >= shard_size:
            starts.append(group)
            length = 0
        length += count
    if sum(rows):
        yield from zip(starts, [*starts[1:], len(rows)], strict=True)


def _parquet_shard(file: File, groups: tuple[int, int], cut: _Cut, share: float) -> Shard:
    uri = printable(public_uri(file.location))
    start, stop = groups
    whole = share == 1.0
    return Shard(
        shard_id=shard_id(uri) if whole else shard_id(uri, [f"{start}-{stop}"], start),
        kind="parquet",
        uri=uri,
        location=file.location,
        start=start,
        stop=stop,
        size_bytes=round(file.size_bytes * share),
        version=file.version,
        image_column=cut.image_column,
    )


def _cut_folder(listing: Listing, cut: _Cut) -> Iterator[Shard]:
    uri = printable(public_uri(listing.root))
    for start in range(0, len(listing.files), cut.shard_size):
        files = listing.files[start : start + cut.shard_size]
        members = tuple(file.name for file in files)
        version = hashlib.sha256("\n".join(file.version for file in files).encode()).hexdigest()[:16]
        yield Shard(
            # The members are part of the id: once a file is added or removed, a shard at this place has other images.
            shard_id=shard_id(uri, members, start),
            kind="files",
            uri=uri,
            location=listing.root,
            start=start,
            stop=start + len(files),
            members=members,
            size_bytes=sum(file.size_bytes for file in files),
            version=version,
            segmentations=listing.kind == "segmentation",
        )


def _cut_manifests(listing: Listing, cut: _Cut) -> Iterator[Shard]:
    for file in listing.files:
        uri = printable(public_uri(file.location))
        suffix = suffix_of(file.location)
        with cut.open_file(file) as stream:
            try:
                check_manifest(stream, suffix, cut.image_column)
                stream.seek(0)
                for run in split_manifest(stream, suffix, cut.shard_size):
                    yield Shard(
                        shard_id=shard_id(uri, [run.digest], run.start),
                        kind="manifest",
                        uri=uri,
                        location=file.location,
                        start=run.start,
                        stop=run.stop,
                        offset=run.offset,
                        size_bytes=run.size_bytes,
                        version=file.version,
                        image_column=cut.image_column,
                    )
            except (UsageError, ManifestError, csv.Error) as error:
                raise UsageError(f"{uri}: {error}") from error


_CUTTERS = {
    "tar": _cut_tars,
    "parquet": _cut_parquet,
    "image": _cut_folder,
    "segmentation": _cut_folder,
    "manifest": _cut_manifests,
}
