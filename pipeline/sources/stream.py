"""Opens one file of any store for reading with seeks; short transfers are noticed, transient errors tried again."""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from typing import IO, Any, cast

import fsspec

from maskmill.pipeline.sources.version import file_info, file_version
from maskmill.pipeline.storage.files import (
    ShortReadError,
    StorageOptions,
    is_local,
    open_filesystem,
    with_retries,
)

BLOCK_BYTES = 8 * 2**20
"""Bytes fetched at a time. Large enough to use a fast link, small enough for many readers on one machine."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file and what its store said of it when it was looked up. info: see `file_info`."""

    fs: fsspec.AbstractFileSystem
    path: str
    info: dict[str, Any]

    @property
    def version(self) -> str:
        """Entity tag or modification time, with the size: another one means other content."""
        return file_version(self.info)

    def open(self) -> IO[bytes]:
        """Open the file for reading with seeks."""
        return open_stream(self.fs, self.path, self.info)


def find_file(uri: str, storage_options: StorageOptions | None = None) -> FoundFile:
    """Look a file up. Raises UsageError for an address that cannot be opened, and the errors of its store."""
    fs, path = open_filesystem(uri, storage_options)
    return FoundFile(fs, path, with_retries(lambda: file_info(fs, path)))


def open_file(uri: str, storage_options: StorageOptions | None = None) -> IO[bytes]:
    """Open a file for reading with seeks. Raises what `find_file` raises."""
    return find_file(uri, storage_options).open()


class RangeStream(io.RawIOBase):
    """A seekable, read-only file over range requests of an object store."""

    def __init__(self, fs: fsspec.AbstractFileSystem, path: str, size: int, block_bytes: int = BLOCK_BYTES) -> None:
        super().__init__()
        self._fs, self._path, self._size, self._block_bytes = fs, path, size, block_bytes
        self._position = 0
        self._block_start = 0
        self._block = b""

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always; a seek alone transfers nothing."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move and return the position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._position = base + offset
        return self._position

    def readall(self) -> bytes:
        """Return everything from the position to the end."""
        return self.read(self._size - self._position)

    def read(self, size: int = -1) -> bytes:
        """Return ``size`` bytes, fewer only at the end of the file."""
        stop = self._size if size < 0 else min(self._size, self._position + size)
        pieces = []
        while self._position < stop:
            offset = self._position - self._block_start
            if not 0 <= offset < len(self._block):
                self._load(stop)
                offset = 0
            piece = self._block[offset : offset + stop - self._position]
            pieces.append(piece)
            self._position += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` and return how many bytes were read; fewer than its length only at the end of the file."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _load(self, wanted_stop: int) -> None:
        start = self._position
        stop = min(self._size, max(start + self._block_bytes, wanted_stop))
        self._block = with_retries(lambda: self._fetch(start, stop))
        self._block_start = start

    def _fetch(self, start: int, stop: int) -> bytes:
        data = self._fs.cat_file(self._path, start=start, end=stop)
        if len(data) != stop - start:
            raise ShortReadError(self._path, stop - start, len(data))
        return data


def open_stream(fs: fsspec.AbstractFileSystem, path: str, info: dict[str, Any]) -> IO[bytes]:
    """Open a file for reading with seeks. info: from `file_info`.

    If the server tells no size or serves no ranges, the file is first copied to a temporary one.
    """
    if is_local(fs):
        return open(path, "rb")
    size = info.get("size")
    if size is not None and info.get("partial", True) and _has_ranges(fs):
        return cast(IO[bytes], RangeStream(fs, path, size))
    return with_retries(lambda: _download(fs, path, size))


def _has_ranges(fs: fsspec.AbstractFileSystem) -> bool:
    # Web servers count as having none: many answer every request for a range with the whole file.
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    return not protocols & {"http", "https"}


def _download(fs: fsspec.AbstractFileSystem, path: str, size: int | None) -> IO[bytes]:
    # The caller closes the copy, and closing removes it.
    copy = tempfile.TemporaryFile(prefix="maskmill-")  # noqa: SIM115
    received = 0
    with fs.open(path, "rb") as stream:
        while piece := stream.read(BLOCK_BYTES):
            copy.write(piece)
            received += len(piece)
    if size is not None and received != size:
        copy.close()
        raise ShortReadError(path, size, received)
    copy.seek(0)
    return copy
