"""Opens the file system of an address, repeats what failed transiently, and writes files as a whole or not at all.

Credentials and endpoints come from the standard environment variables (``AWS_ENDPOINT_URL``, ...) or from storage
options, and never appear in a message.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.storage.failures import (
    ShortReadError,
    error_chain,
    http_status,
    is_missing,
    is_permission,
    is_transient,
    public_error,
)
from maskmill.pipeline.storage.options import StorageOptions, nested_options, parse_storage_options, s3_options
from maskmill.pipeline.storage.web import WebClient
from maskmill.pipeline.uris import WEB, is_chained, local_path, public_uri, scheme_of, without_query

__all__ = [
    "ShortReadError",
    "StorageOptions",
    "error_chain",
    "http_status",
    "is_local",
    "is_missing",
    "is_permission",
    "is_transient",
    "open_atomic",
    "open_filesystem",
    "parse_storage_options",
    "public_error",
    "public_uri",
    "read_bytes",
    "try_again",
    "with_retries",
    "without_query",
    "write_atomic",
]

Result = TypeVar("Result")

ATTEMPTS = 5
"""How often a read or write is tried before its transient error is raised."""
FIRST_DELAY_S = 0.2
"""Pause before the second attempt; it triples each time, so that five attempts span 8 s."""

UNFINISHED_PREFIX, UNFINISHED_SUFFIX = ".maskmill-", ".tmp"
"""How the names of unfinished files on a local disk begin and end: still being written, or left by a killed writer."""


def open_filesystem(
    uri: str, storage_options: StorageOptions | None = None, web: WebClient | None = None
) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of ``uri`` and the path inside it.

    Storage options go to the file system's constructor; dots in a key nest ("client_kwargs.endpoint_url"). Listings of
    S3 are not cached, so that files of other processes are seen at once. web: how web servers are asked; by default
    storage options go to the server of ``uri`` and not along its redirects. Raises UsageError for chained addresses,
    and when the scheme is unknown, its package is missing or an option is not understood.
    """
    if is_chained(uri):
        raise UsageError(f"chained addresses (with ::) are not opened: {public_uri(uri)}")
    scheme = scheme_of(uri) or "file"
    try:
        if scheme in ("file", "local"):
            return fsspec.filesystem("file"), local_path(uri)
        options: dict[str, Any] = nested_options(storage_options or {})
        if scheme in ("s3", "s3a"):
            options = s3_options(options)
        elif scheme in WEB:
            options.setdefault("get_client", web or WebClient.of(uri, bool(options)))
        return _remote_filesystem(scheme, scheme + uri[len(scheme) :], options)
    except (ValueError, ImportError) as error:
        raise UsageError(f"cannot open {public_uri(uri)!r}: {error}") from error
    except TypeError as error:
        names = ", ".join(sorted(storage_options or {})) or "none"
        raise UsageError(f"storage options not understood for {scheme}:// (given: {names}): {error}") from error


def _remote_filesystem(scheme: str, uri: str, options: dict[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    # fsspec.url_to_fs is not used: it would take "::" in the name of an object for a chain of addresses.
    kind = fsspec.get_filesystem_class(scheme)
    return fsspec.filesystem(scheme, **{**kind._get_kwargs_from_urls(uri), **options}), kind._strip_protocol(uri)


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether ``fs`` is this machine's file system, where writing means a temporary file and a rename."""
    return isinstance(fs, LocalFileSystem)


def try_again(
    call: Callable[[], Result],
    *,
    attempts: int = ATTEMPTS,
    first_delay_s: float = FIRST_DELAY_S,
    patience_s: float = math.inf,
) -> Result:
    """Return ``call()``, repeated after growing pauses while its error is transient; the last error is raised.

    patience_s: no attempt begins later than this after the first.
    """
    delay_s = first_delay_s
    last_start = time.monotonic() + patience_s
    for _ in range(attempts - 1):
        try:
            return call()
        except Exception as error:
            if not is_transient(error) or time.monotonic() + delay_s > last_start:
                raise
        time.sleep(delay_s)
        delay_s *= 3
    return call()


def with_retries(
    call: Callable[[], Result], *, attempts: int = ATTEMPTS, first_delay_s: float = FIRST_DELAY_S
) -> Result:
    """Do as `try_again`; an error whose text holds a secret is raised as one of the same kind without the secret."""
    try:
        return try_again(call, attempts=attempts, first_delay_s=first_delay_s)
    except Exception as error:
        shown = public_error(error)
        if shown is error:
            raise
    raise shown


def read_bytes(fs: fsspec.AbstractFileSystem, path: str, *, attempts: int = ATTEMPTS) -> bytes:
    """Return a whole file, with repeated attempts after transient errors."""
    return with_retries(lambda: fs.cat_file(path), attempts=attempts)


def write_atomic(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """Write ``data`` so that a reader sees the whole file or none: by a rename on a local disk, by one PUT on a store.

    Uploads of 100 MB and more go in parts, which become visible together.
    """
    if is_local(fs):
        with open_atomic(fs, path) as stream:
            stream.write(data)
    else:
        with_retries(lambda: fs.pipe_file(path, data))


@contextmanager
def open_atomic(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[IO[bytes]]:
    """Yield a local file to write to; it appears at ``path`` when the block ends, and not at all if the block raises.

    Parent directories are made. On a local disk first the data and then the directory are synced, so that after a power
    cut the file is either absent or whole.
    """
    if not is_local(fs):
        with tempfile.NamedTemporaryFile(prefix="maskmill-") as remote_stream:
            yield remote_stream
            remote_stream.flush()
            with_retries(lambda: fs.put_file(remote_stream.name, path))
        return
    directory = os.path.dirname(os.path.abspath(path))
    os.makedirs(directory, exist_ok=True)
    # The leading dot of the name keeps the unfinished file out of listings by pattern.
    descriptor, temporary = tempfile.mkstemp(prefix=UNFINISHED_PREFIX, suffix=UNFINISHED_SUFFIX, dir=directory)
    try:
        with open(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fchmod(stream.fileno(), 0o666 & ~_umask())
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_directory(directory)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
