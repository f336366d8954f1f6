"""The folder of a run: the names of the files in it, and how they are read, written and removed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.sources.stream import find_file
from maskmill.pipeline.storage import files

RUN_FILE = "run.json"
CLASSES_FILE = "classes.json"
SUMMARY_FILE = "summary.json"
CLASS_STATS_FILE = "class_stats.parquet"
INVENTORY_FILE = "inventory.json"
LABELS_FOLDER, ERRORS_FOLDER, HISTORY_FOLDER = "labels", "errors", "runs"
STAGING = "_staging"

READ_THREADS = 16
ROW_GROUP_BYTES = 32 * 2**20
"""Bytes of a row group in memory, unless one row has more. Arrow cannot read lists that hold 2 GiB of text at once."""


class DamagedFileError(UsageError, ValueError):
    """A file of a run or of an evaluation does not hold what was written to it; the message names the file."""


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

    @property
    def is_local(self) -> bool:
        """Whether the folder lies on this machine, where a file that is being written has a temporary name."""
        return files.is_local(self._fs)

    def path(self, name: str) -> str:
        """The file system path of ``name`` (such as "labels/x.parquet") below the output."""
        return f"{self._root.rstrip('/')}/{name}"

    def read_bytes(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError if there is none."""
        return files.with_retries(lambda: self._fs.cat_file(self.path(name)))

    def read_heads(self, names: Iterable[str], size: int) -> list[bytes]:
        """The first ``size`` bytes (or all, if fewer) of many files, several at a time, in the order given."""

        def head(name: str) -> bytes:
            return files.with_retries(lambda: self._fs.cat_file(self.path(name), start=0, end=size))

        with ThreadPoolExecutor(READ_THREADS) as pool:
            return list(pool.map(head, names))

    def read_many(self, names: Iterable[str]) -> list[bytes]:
        """Read many small files, several at a time, in the order given."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return list(pool.map(self.read_bytes, names))

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
        """Write JSON with the keys in the order given and return its size in bytes."""
        data = (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
        self.write_bytes(name, data)
        return len(data)

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read one Parquet file; all of its bytes are fetched, also where only some columns are wanted."""
        return pq.read_table(io.BytesIO(self.read_bytes(name)), columns=columns)

    def read_columns(self, name: str, columns: list[str]) -> tuple[pa.Table, str]:
        """Some columns of a Parquet file, fetched without the other columns, and the version of the file."""
        found = find_file(f"{self.uri}/{name}", self.storage_options)
        with found.open() as stream:
            return pq.ParquetFile(stream, pre_buffer=False).read(columns=columns), found.version

    def write_table(self, name: str, table: pa.Table) -> int:
        """Write one Parquet file (zstd), in row groups of bounded size, and return its size in bytes."""
        sink = io.BytesIO()
        dictionaries = _dictionary_columns(table.schema)
        with pq.ParquetWriter(sink, table.schema, compression="zstd", use_dictionary=dictionaries) as writer:
            for group in byte_slices(table):
                # Each group is written as one chunk, so that the file does not depend on the parts it was made from.
                writer.write_table(group.combine_chunks())
        self.write_bytes(name, sink.getvalue())
        return sink.tell()

    def exists(self, name: str) -> bool:
        """Whether the file is there now; cached listings are not asked."""
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

    def entries(self, folder: str = "") -> dict[str, bool]:
        """What lies directly in ``folder``: name -> whether it is a folder itself; empty if there is no such folder."""
        path = self.path(folder).rstrip("/")
        self._fs.invalidate_cache()
        try:
            found = files.with_retries(lambda: self._fs.ls(path, detail=True))
        except FileNotFoundError:
            return {}
        # A store may list the folder itself, as an empty object of the folder's name.
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
        """Remove one file; nothing happens if there is none. A folder is never removed together with its files."""
        self._fs.invalidate_cache()
        try:
            files.with_retries(lambda: self._fs.rm_file(self.path(name)))
        except FileNotFoundError:
            return

    def remove_many(self, names: Iterable[str]) -> None:
        """Remove files, several at a time, in no order."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            list(pool.map(self.remove, names))


def _dictionary_columns(schema: pa.Schema) -> bool | list[str]:
    """The columns to be written with a dictionary: all but RLEs.

    A dictionary would hold nearly every RLE, and where RLEs repeat, the sizes in the file would not tell readers how
    much memory a row group takes.
    """
    if "rles" not in schema.names:
        return True
    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    columns = pq.ParquetFile(sink).schema
    paths = (columns.column(index).path for index in range(len(columns)))
    return [path for path in paths if path.partition(".")[0] != "rles"]


def byte_slices(table: pa.Table, most_bytes: int = ROW_GROUP_BYTES) -> Iterator[pa.Table]:
    """Cut a table into slices of at most ``most_bytes``, or of one row. An empty table gives one empty slice."""
    if table.num_rows <= 1 or table.nbytes <= most_bytes:
        yield table
        return
    half = table.num_rows // 2
    yield from byte_slices(table.slice(0, half), most_bytes)
    yield from byte_slices(table.slice(half), most_bytes)


def no_run(uri: str, missing: str = RUN_FILE) -> UsageError:
    """The error for a place that should hold a run and does not. missing: the file by which a run is known there."""
    return UsageError(f"{uri} holds no run (no {missing} there)")


def labels_name(shard_id: str) -> str:
    """The shard's table of labelled images."""
    return f"{LABELS_FOLDER}/{shard_id}.parquet"


def errors_name(shard_id: str) -> str:
    """The shard's table of failed images; the file exists only where an image failed."""
    return f"{ERRORS_FOLDER}/{shard_id}.parquet"


def part_name(attempt: str, kind: str, part: str | None) -> str:
    """The staged table of one batch. kind: LABELS_FOLDER or ERRORS_FOLDER."""
    return f"{STAGING}/{attempt}/{kind}/{part}.parquet"
