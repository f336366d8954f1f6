"""Where a run's files lie and how they are written: final names are deterministic, the marker of a shard comes last."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.sources.shard import is_shard_id
from maskmill.pipeline.storage import files

log = logging.getLogger(__name__)

READ_THREADS = 16
ROW_GROUP_BYTES = 32 * 2**20
"""Bytes of a row group in memory, unless one row has more. Arrow cannot read lists that hold 2 GiB of text at once."""
WRITTEN_FOLDERS = (".", "labels", "errors", "stats")
STAGING = "_staging"


class DamagedFileError(UsageError, ValueError):
    """A file of a run or of an evaluation is not as it was written; the message names it."""


class Output:
    """The folder or bucket prefix of one run.

    Picklable as (uri, storage options), so that remote tasks open their own connections.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = uri.rstrip("/") or uri
        self.storage_options = dict(storage_options or {})
        self._fs: AbstractFileSystem
        self._fs, self._root = files.open_filesystem(self.uri, self.storage_options)

    def __reduce__(self) -> tuple[type[Output], tuple[str, dict[str, str]]]:
        return (Output, (self.uri, self.storage_options))

    def path(self, name: str) -> str:
        """The file system path of ``name`` (such as "labels/x.parquet") below the output."""
        return f"{self._root.rstrip('/')}/{name}"

    def read_bytes(self, name: str) -> bytes:
        """The whole file; FileNotFoundError if it is not there."""
        return files.with_retries(lambda: self._fs.cat_file(self.path(name)))

    def read_heads(self, names: Iterable[str], size: int) -> list[bytes]:
        """The first ``size`` bytes (or all, if fewer) of many files, several at a time, in the order given."""

        def head(name: str) -> bytes:
            return files.with_retries(lambda: self._fs.cat_file(self.path(name), start=0, end=size))

        with ThreadPoolExecutor(READ_THREADS) as pool:
            return list(pool.map(head, names))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a whole file so that a reader sees either all of it or the file before."""
        files.write_atomic(self._fs, self.path(name), data)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The parsed file, or None if there is none. Raises DamagedFileError if it holds no JSON object."""
        try:
            value = json.loads(self.read_bytes(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, RecursionError) as error:
            raise DamagedFileError(f"{self._shown(name)} is damaged, it is no valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise DamagedFileError(
                f"{self._shown(name)} is damaged: it holds {type(value).__name__} and no JSON object"
            )
        return value

    def _shown(self, name: str) -> str:
        return f"{files.public_uri(self.uri)}/{name}"

    def write_json(self, name: str, value: Mapping[str, Any]) -> int:
        """Write JSON with stable key order as given and return its size in bytes."""
        data = (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
        self.write_bytes(name, data)
        return len(data)

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read one Parquet file."""
        return pq.read_table(io.BytesIO(self.read_bytes(name)), columns=columns)

    def write_table(self, name: str, table: pa.Table) -> int:
        """Write one Parquet file (zstd), in row groups of bounded size, and return its size in bytes."""
        sink = io.BytesIO()
        dictionaries = _dictionary_columns(table.schema)
        with pq.ParquetWriter(sink, table.schema, compression="zstd", use_dictionary=dictionaries) as writer:
            for group in byte_slices(table):
                # As one chunk: what the file is like must not depend on the parts that the table came from.
                writer.write_table(group.combine_chunks())
        self.write_bytes(name, sink.getvalue())
        return sink.tell()

    def exists(self, name: str) -> bool:
        """Whether the file is there now, past any cached listing."""
        self._fs.invalidate_cache()
        return bool(files.with_retries(lambda: self._fs.exists(self.path(name))))

    def names(self, folder: str, suffix: str) -> list[str]:
        """Sorted names (without ``suffix``) of the files in ``folder``; empty if there is no such folder."""
        self._fs.invalidate_cache()
        try:
            paths = files.with_retries(lambda: self._fs.ls(self.path(folder), detail=False))
        except FileNotFoundError:
            return []
        names = (path.rsplit("/", 1)[-1] for path in paths)
        return sorted(name.removesuffix(suffix) for name in names if name.endswith(suffix))

    def finished(self) -> list[str]:
        """Ids of the shards that have a marker, sorted; files of other origin in the folder do not count."""
        return [name for name in self.names("stats", ".json") if is_shard_id(name)]

    def read_many(self, names: Iterable[str]) -> list[bytes]:
        """Read many small files, several at a time, in the order given."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return list(pool.map(self.read_bytes, names))

    def entries(self, folder: str = "") -> dict[str, bool]:
        """What lies directly in ``folder``: name -> whether it is a folder itself; empty if there is no such folder."""
        path = self.path(folder).rstrip("/")
        self._fs.invalidate_cache()
        try:
            found = files.with_retries(lambda: self._fs.ls(path, detail=True))
        except FileNotFoundError:
            return {}
        # A store may list the folder itself, as an empty object of its name.
        inside = [each for each in found if each["name"].rstrip("/") != path]
        return {each["name"].rstrip("/").rsplit("/", 1)[-1]: each["type"] == "directory" for each in inside}

    def all_names(self) -> list[str]:
        """The files at any depth, relative to the output; empty if there is no such folder."""
        root = self.path("").rstrip("/")
        self._fs.invalidate_cache()
        try:
            return [path[len(root) + 1 :] for path in files.with_retries(lambda: self._fs.find(root))]
        except FileNotFoundError:
            return []

    def remove(self, name: str) -> None:
        """Remove one file; nothing happens if it is not there. A folder is never removed with what it holds."""
        self._fs.invalidate_cache()
        try:
            files.with_retries(lambda: self._fs.rm_file(self.path(name)))
        except FileNotFoundError:
            return

    def remove_many(self, names: Iterable[str]) -> None:
        """Remove files, several at a time, in no order."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            list(pool.map(self.remove, names))

    def remove_orphans(self, attempt: str) -> None:
        """Remove what ``attempt`` and those before it (attempts sort by their start) staged or left half written.

        A later attempt, which has taken over, keeps its own. What another process is still writing to is left there
        with a warning: nothing depends on it. Files of other names than this program gives stay.
        """
        staged = [name for name, is_folder in self.entries(STAGING).items() if is_folder and name <= attempt]
        folders = [f"{STAGING}/{each}/{kind}" for each in staged for kind in ("labels", "errors")]
        orphans = [f"{each}/{name}.parquet" for each in folders for name in self.names(each, ".parquet")]
        if files.is_local(self._fs):  # elsewhere a file is there when it is whole
            orphans += [f"{each}/{name}" for each in (*WRITTEN_FOLDERS, *folders) for name in self._unfinished(each)]
        for name in orphans:
            self._try_to_remove(name)
        self._remove_empty(*folders, *(f"{STAGING}/{each}" for each in staged), STAGING)

    def _unfinished(self, folder: str) -> list[str]:
        names = self.names(folder, files.UNFINISHED_SUFFIX)
        return [name + files.UNFINISHED_SUFFIX for name in names if name.startswith(files.UNFINISHED_PREFIX)]

    def _try_to_remove(self, name: str) -> None:
        try:
            self.remove(name)
        except OSError as error:
            if files.is_permission(error):
                raise
            log.warning("could not remove %s, which nobody needs any more: %s", name, error)

    def _remove_empty(self, *folders: str) -> None:
        """Remove those of these local folders that are there and empty; a store has no folders of its own."""
        if files.is_local(self._fs):
            for folder in folders:
                with suppress(OSError):
                    os.rmdir(self.path(folder))

    def clear(self) -> None:
        """Remove the shards of the run that lies here and what was made from them, file by file.

        Only what bears the name of a shard with a marker, or says in its metadata that a run wrote it, is removed; the
        history stays, and so does run.json, which the next run replaces: it vouches for what an interrupted call
        leaves. Markers go before what they vouch for, so that an interrupted call loses no truth.
        """
        if not self.exists("run.json"):
            return
        tables = {folder: self.names(folder, ".parquet") for folder in ("labels", "errors")}
        done = set(self.finished())
        self.remove("inventory.json")
        self.remove_many(f"stats/{shard_id}.json" for shard_id in sorted(done))
        for name in ("summary.json", "class_stats.parquet"):
            self.remove(name)
        ours = [
            f"{folder}/{name}.parquet"
            for folder, names in tables.items()
            for name in names
            if name in done or self._is_table_of(name, f"{folder}/{name}.parquet")
        ]
        self.remove_many(ours)
        self.remove_orphans(max(self.entries(STAGING), default=""))
        self._remove_empty("labels", "errors", "stats")

    def _is_table_of(self, shard_id: str, name: str) -> bool:
        """Whether the table says in its metadata that a run wrote it for this shard."""
        try:
            metadata = pq.read_schema(io.BytesIO(self.read_bytes(name))).metadata or {}
        except (pa.ArrowException, FileNotFoundError):
            return False
        return b"maskmill.run_id" in metadata and metadata.get(b"maskmill.shard") == shard_id.encode()


def _dictionary_columns(schema: pa.Schema) -> bool | list[str]:
    """The columns to be written with a dictionary: all but RLEs.

    A dictionary would hold nearly every RLE, and where they repeat, the sizes in the file would not tell readers what a
    row group takes in memory.
    """
    if "rles" not in schema.names:
        return True
    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    columns = pq.ParquetFile(sink).schema
    paths = (columns.column(index).path for index in range(len(columns)))
    return [path for path in paths if path.partition(".")[0] != "rles"]


def byte_slices(table: pa.Table, most_bytes: int = ROW_GROUP_BYTES) -> Iterator[pa.Table]:
    """Cut a table into runs of rows of at most ``most_bytes``, or of one row. Of an empty table it is the only one."""
    if table.num_rows <= 1 or table.nbytes <= most_bytes:
        yield table
        return
    half = table.num_rows // 2
    yield from byte_slices(table.slice(0, half), most_bytes)
    yield from byte_slices(table.slice(half), most_bytes)


def marker_name(shard_id: str) -> str:
    """The file whose existence means that the shard is done."""
    return f"stats/{shard_id}.json"


def labels_name(shard_id: str) -> str:
    """The shard's table of labelled images."""
    return f"labels/{shard_id}.parquet"


def errors_name(shard_id: str) -> str:
    """The shard's table of failed images; exists only where something failed."""
    return f"errors/{shard_id}.parquet"


def part_name(attempt: str, kind: str, part: str | None) -> str:
    """Name of a staged part below the output."""
    return f"_staging/{attempt}/{kind}/{part}.parquet"
