"""Reads single image files by URI, several at once from a store, to hide its latency."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import fsspec

from maskmill.pipeline.errors import BadImageError, UsageError
from maskmill.pipeline.sources.shard import ReadLimits, too_large
from maskmill.pipeline.storage.files import (
    ShortReadError,
    StorageOptions,
    is_local,
    is_missing,
    open_filesystem,
    with_retries,
)
from maskmill.pipeline.uris import is_web

_NO_SUCH_NAME = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP}
READ_THREADS = 16
"""Most files of a shard that are read from a store at once; fewer where the files are large."""

READ_AHEAD_BYTES = 64 * 2**20
"""About so many bytes of files that are read ahead are held, however many and large they are."""
_FIRST_AHEAD = 2

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """The result of reading one file: its bytes, or the error because of which there are none."""

    data: bytes | None = None
    error: BadImageError | None = None


def fetch(uri: str, storage_options: StorageOptions | None, limits: ReadLimits) -> Fetched:
    """Read one image file. Missing, empty, too large and irregular files are errors of the image.

    Errors of the set-up or the network are raised, transient ones after several attempts.
    """
    try:
        fs, path = open_filesystem(uri, storage_options)
        return with_retries(lambda: read_file(fs, path, limits))
    except Exception as error:
        if is_missing(error) or (isinstance(error, OSError) and error.errno in _NO_SUCH_NAME):
            return Fetched(error=BadImageError("read", "not_found", "there is no such file"))
        if _is_bad_uri(error):
            return Fetched(error=BadImageError("read", "bad_uri", "the URI cannot be understood"))
        raise


def read_file(fs: fsspec.AbstractFileSystem, path: str, limits: ReadLimits) -> Fetched:
    """Read one file in one attempt; errors of the store are raised as they are."""
    return _read_local(path, limits) if is_local(fs) else _read_remote(fs, path, limits)


def _is_bad_uri(error: Exception) -> bool:
    # An unknown scheme, a null byte or an impossible bucket name is a mistake in one entry of a list, no wrong set-up.
    cause = error.__cause__ if isinstance(error, UsageError) else error
    return isinstance(cause, ValueError) or type(cause).__name__ == "ParamValidationError"


def _read_local(path: str, limits: ReadLimits) -> Fetched:
    # The kind of file is checked before opening: opening a pipe would wait for ever.
    if not stat.S_ISREG(os.stat(path).st_mode):
        return Fetched(error=BadImageError("read", "not_a_file", "not a regular file"))
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        return _too_large_or(size, limits) or _content(stream.read())


def _read_remote(fs: fsspec.AbstractFileSystem, path: str, limits: ReadLimits) -> Fetched:
    size = fs.info(path).get("size")
    if size is None:
        with fs.open(path, "rb") as stream:
            data = _read_bounded(stream, limits.max_image_bytes + 1)
        return _too_large_or(len(data), limits) or _content(data)
    if bad := _too_large_or(size, limits):
        return bad
    data = _read_known(fs, path, size) if size else b""
    if len(data) != size:
        raise ShortReadError(path, size, len(data))
    return _content(data)


def _read_known(fs: fsspec.AbstractFileSystem, path: str, size: int) -> bytes:
    """Return up to one byte more than ``size`` of a file of so many bytes."""
    if not is_web(path):
        # With a range given, the client of S3 does not ask for the size again.
        return fs.cat_file(path, start=0, end=size)
    # fsspec's cat_file is not used here: a web server may send more than it announced, without end, and it takes all.
    with fs.open(path, "rb", block_size=0, size=size) as stream:
        return _read_bounded(stream, size + 1)


def _read_bounded(stream: fsspec.spec.AbstractBufferedFile, limit: int) -> bytes:
    pieces, received = [], 0
    while received < limit and (piece := stream.read(min(2**20, limit - received))):
        pieces.append(piece)
        received += len(piece)
    return b"".join(pieces)


def _too_large_or(size: int, limits: ReadLimits) -> Fetched | None:
    return Fetched(error=too_large(size, limits)) if size > limits.max_image_bytes else None


def _content(data: bytes) -> Fetched:
    return Fetched(data=data) if data else Fetched(error=BadImageError("read", "empty", "the file has no data"))


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    size_of: Callable[[Result], int] | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Yield every item with its result, in order, computing at most ``threads`` results ahead; none for one thread.

    size_of: the bytes that a result holds. With it, the results computed ahead hold about ``READ_AHEAD_BYTES``, judged
    by the largest of the latest results: at first two are computed ahead, and one more after each small result.
    """
    if threads == 1:
        yield from ((item, function(item)) for item in items)
        return
    pending: deque[tuple[Item, Future[Result]]] = deque()
    latest: deque[int] = deque(maxlen=threads)
    most = threads if size_of is None else min(threads, _FIRST_AHEAD)

    def take() -> tuple[Item, Result]:
        item, future = pending.popleft()
        result = future.result()
        del future
        if size_of is not None:
            latest.append(size_of(result))
        return item, result

    with ThreadPoolExecutor(threads, thread_name_prefix="fetch") as pool:
        try:
            for item in items:
                pending.append((item, pool.submit(function, item)))
                while len(pending) >= most:
                    yield take()
                    if latest:
                        most = max(1, min(most + 1, threads, READ_AHEAD_BYTES // max(1, *latest)))
            while pending:
                yield take()
        finally:
            for _, future in pending:
                future.cancel()
