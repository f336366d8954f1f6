"""Files wherever they lie: opening fsspec file systems, atomic writes, and telling what went wrong from what will pass.

Credentials and endpoints come from the standard environment variables (``AWS_ENDPOINT_URL``, ...) or from storage
options, and never appear in a message of ours.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import UsageError
from pipeline.storage_options import (
    StorageOptions,
    nested_options,
    parse_storage_options,
    public_uri,
    s3_options,
    without_query,
)

__all__ = [
    "ShortReadError",
    "StorageOptions",
    "is_local",
    "is_missing",
    "is_permission",
    "is_transient",
    "open_atomic",
    "open_filesystem",
    "parse_storage_options",
    "public_uri",
    "read_bytes",
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
"""How the names of files begin and end that are still being written, or whose writer was killed, on a local disk."""

_TRANSIENT_ERRNOS = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EPIPE,
    errno.EREMOTEIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
# By name, because none of these packages need be installed, or imported when the data is local.
_TRANSIENT_TYPES = {
    "aiohttp.ClientConnectionError",
    "aiohttp.ClientPayloadError",
    "azure.ServiceRequestError",
    "azure.ServiceResponseError",
    "botocore.ConnectionError",
    "botocore.FlexibleChecksumError",
    "botocore.HTTPClientError",
    "botocore.ResponseParserError",
    "http.HTTPException",
    "requests.ConnectionError",
    "requests.Timeout",
}
_PERMISSION_TYPES = {
    "botocore.NoCredentialsError",
    "botocore.PartialCredentialsError",
    "google.DefaultCredentialsError",
}
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_PERMISSION_STATUS = {401, 403, 407}
_MISSING_STATUS = {404, 410}


class ShortReadError(OSError):
    """A transfer ended before all announced bytes had come; counts as transient."""

    def __init__(self, path: str, expected: int, received: int) -> None:
        super().__init__(errno.EIO, f"read {received} of {expected} bytes", path)


def open_filesystem(uri: str, storage_options: StorageOptions | None = None) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of ``uri`` and the path inside it.

    Storage options go to the file system's constructor; dots in a key nest ("client_kwargs.endpoint_url"). Listings of
    S3 are not cached: what another process wrote is seen at once. Raises UsageError when the scheme is unknown, its
    package is missing or an option is not understood.
    """
    scheme = uri.split("://", 1)[0] if "://" in uri else "file"
    options = nested_options(storage_options or {})
    if scheme in ("s3", "s3a"):
        options = s3_options(options)
    elif scheme == "file":
        options = {}
    try:
        return fsspec.core.url_to_fs(uri, **options)
    except (ValueError, ImportError) as error:
        raise UsageError(f"cannot open {uri!r}: {error}") from error
    except TypeError as error:
        names = ", ".join(sorted(options)) or "none"
        raise UsageError(f"storage options not understood for {scheme}:// (given: {names}): {error}") from error


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether ``fs`` is this machine's file system, where writing means a temporary file and a rename."""
    return isinstance(fs, LocalFileSystem)


def _chain(error: BaseException) -> Iterator[BaseException]:
    # File systems wrap the client's error in an OSError of their own; either may tell.
    current: BaseException | None = error
    for _ in range(8):
        if current is None:
            return
        yield current
        current = current.__cause__


def _type_names(error: BaseException) -> set[str]:
    return {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        code = getattr(error, "status", None) or getattr(error, "status_code", None) or getattr(error, "code", None)
    return code if isinstance(code, int) else None


def _s3_code(error: BaseException) -> str | None:
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def is_missing(error: BaseException) -> bool:
    """Whether ``error`` says that there is no such file or object. A missing bucket is none: that is wrong set-up."""
    chain = list(_chain(error))
    if any(_s3_code(each) == "NoSuchBucket" for each in chain):
        return False
    if any(_status(each) in _MISSING_STATUS for each in chain):
        return True
    # fsspec's web file system says "not found" of whatever went wrong; then the cause tells what it was.
    told_otherwise = any(_is_transient_itself(each) or _is_permission_itself(each) for each in chain)
    return not told_otherwise and any(isinstance(each, FileNotFoundError) for each in chain)


def _is_permission_itself(error: BaseException) -> bool:
    return (
        isinstance(error, PermissionError)
        or _status(error) in _PERMISSION_STATUS
        or bool(_type_names(error) & _PERMISSION_TYPES)
    )


def is_permission(error: BaseException) -> bool:
    """Whether ``error`` says that we may not: a run stops on it, for it concerns the set-up and no single image."""
    return any(_is_permission_itself(each) for each in _chain(error))


def _is_transient_itself(error: BaseException) -> bool:
    return (
        isinstance(error, (TimeoutError, ConnectionError, EOFError))
        or (isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS)
        or _status(error) in _TRANSIENT_STATUS
        or bool(_type_names(error) & _TRANSIENT_TYPES)
    )


def is_transient(error: BaseException) -> bool:
    """Whether ``error`` may go away by itself: time-outs, throttling, resets, short transfers, server errors."""
    if is_permission(error) or is_missing(error):
        return False
    return any(_is_transient_itself(each) for each in _chain(error))


def with_retries(
    call: Callable[[], Result], *, attempts: int = ATTEMPTS, first_delay_s: float = FIRST_DELAY_S
) -> Result:
    """Return ``call()``, repeated after growing pauses while its error is transient; the last error is raised."""
    delay_s = first_delay_s
    for _ in range(attempts - 1):
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
        time.sleep(delay_s)
        delay_s *= 3
    return call()


def read_bytes(fs: fsspec.AbstractFileSystem, path: str, *, attempts: int = ATTEMPTS) -> bytes:
    """Return a whole (small) file, trying again on transient errors."""
    return with_retries(lambda: fs.cat_file(path), attempts=attempts)


def write_atomic(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """Write ``data`` so that a reader sees the whole file or none: rename on a local disk, one PUT on object storage.

    Uploads of 100 MB and more go in parts, which become visible together.
    """
    if is_local(fs):
        with open_atomic(fs, path) as stream:
            stream.write(data)
    else:
        with_retries(lambda: fs.pipe_file(path, data))


@contextmanager
def open_atomic(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[IO[bytes]]:
    """Yield a local file to write to; it appears at ``path`` when the block ends, and not at all if that raises.

    Parent directories are made. On a local disk data and name are both synced, so that the name outlives a power cut
    only with its content.
    """
    if not is_local(fs):
        with tempfile.NamedTemporaryFile(prefix="maskmill-") as remote_stream:
            yield remote_stream
            remote_stream.flush()
            with_retries(lambda: fs.put_file(remote_stream.name, path))
        return
    directory = os.path.dirname(os.path.abspath(path))
    os.makedirs(directory, exist_ok=True)
    # The leading dot keeps the unfinished file out of every listing by pattern.
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
