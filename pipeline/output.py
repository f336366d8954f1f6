"""Where a run's files lie and how they are written: final names are deterministic, the marker of a shard comes last."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from pipeline import storage

log = logging.getLogger(__name__)

READ_THREADS = 16
WRITTEN_FOLDERS = (".", "labels", "errors", "stats")


class Output:
    """The folder or bucket prefix of one run.

    Picklable as (uri, storage options), so that remote tasks open their own connections.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = uri.rstrip("/")
        self.storage_options = dict(storage_options or {})
        self._fs: AbstractFileSystem
        self._fs, self._root = storage.open_filesystem(self.uri, self.storage_options)

    def __reduce__(self) -> tuple[type[Output], tuple[str, dict[str, str]]]:
        return (Output, (self.uri, self.storage_options))

    def path(self, name: str) -> str:
        """The file system path of ``name`` (such as "labels/x.parquet") below the output."""
        return f"{self._root.rstrip('/')}/{name}"

    def read_bytes(self, name: str) -> bytes:
        """The whole file; FileNotFoundError if it is not there."""
        return storage.with_retries(lambda: self._fs.cat_file(self.path(name)))

    def read_heads(self, names: Iterable[str], size: int) -> list[bytes]:
        """The first ``size`` bytes (or all, if fewer) of many files, several at a time, in the order given."""

        def head(name: str) -> bytes:
            return storage.with_retries(lambda: self._fs.cat_file(self.path(name), start=0, end=size))

        with ThreadPoolExecutor(READ_THREADS) as pool:
            return list(pool.map(head, names))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a whole file so that a reader sees either all of it or the file before."""
        storage.write_atomic(self._fs, self.path(name), data)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The parsed file, or None if there is none."""
        try:
            return json.loads(self.read_bytes(name))
        except FileNotFoundError:
            return None

    def write_json(self, name: str, value: Mapping[str, Any]) -> int:
        """Write JSON with stable key order as given and return its size in bytes."""
        data = (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
        self.write_bytes(name, data)
        return len(data)

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read one Parquet file."""
        return pq.read_table(io.BytesIO(self.read_bytes(name)), columns=columns)

    def write_table(self, name: str, table: pa.Table) -> int:
        """Write one Parquet file (zstd) and return its size in bytes."""
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(name, sink.getvalue())
        return sink.tell()

    def exists(self, name: str) -> bool:
        """Whether the file is there now, past any cached listing."""
        self._fs.invalidate_cache()
        return bool(storage.with_retries(lambda: self._fs.exists(self.path(name))))

    def names(self, folder: str, suffix: str) -> list[str]:
        """Sorted names (without ``suffix``) of the files in ``folder``; empty if there is no such folder."""
        self._fs.invalidate_cache()
        try:
            paths = storage.with_retries(lambda: self._fs.ls(self.path(folder), detail=False))
        except FileNotFoundError:
            return []
        names = (path.rsplit("/", 1)[-1] for path in paths)
        return sorted(name.removesuffix(suffix) for name in names if name.endswith(suffix))

    def read_many(self, names: Iterable[str]) -> list[bytes]:
        """Read many small files, several at a time, in the order given."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return list(pool.map(self.read_bytes, names))

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all below it; nothing happens if it is not there."""
        self._fs.invalidate_cache()
        try:
            storage.with_retries(lambda: self._fs.rm(self.path(name), recursive=True))
        except FileNotFoundError:
            return

    def remove_orphans(self, attempt: str) -> None:
        """Remove what ``attempt`` and those before it (attempts sort by their start) staged or left half written.

        A later attempt, which has taken over, keeps its own. What another process is still writing to is left there
        with a warning: nothing depends on it.
        """
        staged, is_local = self.names("_staging", ""), storage.is_local(self._fs)
        orphans = [f"_staging/{each}" for each in staged if each <= attempt]
        if is_local:  # elsewhere a file is there when it is whole
            suffix = storage.UNFINISHED_SUFFIX
            orphans += [f"{each}/{name}{suffix}" for each in WRITTEN_FOLDERS for name in self.names(each, suffix)]
        for name in orphans:
            self._try_to_remove(name)
        if (staged or is_local) and not self.names("_staging", ""):
            self._try_to_remove("_staging")

    def _try_to_remove(self, name: str) -> None:
        try:
            self.remove(name)
        except OSError as error:
            if storage.is_permission(error):
                raise
            log.warning("could not remove %s, which nobody needs any more: %s", name, error)

    def clear(self) -> None:
        """Remove all that a run has written here but the history of its attempts.

        Markers go before what they vouch for, so that an interrupted clear loses no truth.
        """
        for name in ("inventory.json", "stats", "summary.json", "class_stats.parquet"):
            self.remove(name)
        for name in ("labels", "errors", "_staging", "run.json"):
            self.remove(name)


def marker_name(shard_id: str) -> str:
    """The file whose existence means that the shard is done."""
    return f"stats/{shard_id}.json"


def labels_name(shard_id: str) -> str:
    """The shard's table of labelled images."""
    return f"labels/{shard_id}.parquet"


def errors_name(shard_id: str) -> str:
    """The shard's table of failed images; exists only where something failed."""
    return f"errors/{shard_id}.parquet"
