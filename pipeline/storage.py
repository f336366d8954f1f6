"""Files wherever they lie: opening fsspec file systems, atomic writes, and telling what went wrong from what will pass.

Credentials and endpoints come from the standard environment variables (``AWS_ENDPOINT_URL``, ...) or from storage
options, and never appear in a message of ours.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import UsageError

Result = TypeVar("Result")
StorageOptions = Mapping[str, Any]

ATTEMPTS = 5
"""How often a read or write is tried before its transient error is raised."""
FIRST_DELAY_S = 0.2
"""Pause before the second attempt; it triples each time, so that five attempts span 8 s."""

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
    "botocore.FlexibleChecksumError",
    "botocore.HTTPClientError",
    "botocore.ResponseParserError",
    "http.HTTPException",
    "requests.ConnectionError",
    "requests.Timeout",
}
_SECRET_PARAMETER = re.compile(
    r"signature|credential|token|secret|password|policy|api-?_?key|key-pair|accesskey|^sig$", re.I
)
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
    options = _nested(storage_options or {})
    if scheme in ("s3", "s3a"):
        options = _s3_options(options)
    elif scheme == "file":
        options = {}
    try:
        return fsspec.core.url_to_fs(uri, **options)
    except (ValueError, ImportError) as error:
        raise UsageError(f"cannot open {uri!r}: {error}") from error
    except TypeError as error:
        names = ", ".join(sorted(options)) or "none"
        raise UsageError(f"storage options not understood for {scheme}:// (given: {names}): {error}") from error


def _s3_options(options: dict[str, Any]) -> dict[str, Any]:
    """Fill in timeouts under which a stalled connection is given up and tried again, where none are set."""
    if "endpoint_url" not in options and "endpoint_url" not in options.get("client_kwargs", {}):
        # botocore reads these itself, but fsspec would hand out a cached connection made under another value.
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options = options | ({"endpoint_url": endpoint} if endpoint else {})
    config = {"connect_timeout": 10, "read_timeout": 30, "retries": {"mode": "standard", "max_attempts": 2}}
    return {
        "use_listings_cache": False,
        **options,
        "config_kwargs": {**config, **options.get("config_kwargs", {})},
    }


def parse_storage_options(entries: list[str]) -> dict[str, str]:
    """Turn ``["key=value", ...]`` into a dict. Raises UsageError with the number, never the text, of a bad entry."""
    options: dict[str, str] = {}
    for position, entry in enumerate(entries, start=1):
        name, separator, value = entry.partition("=")
        if not separator or not name:
            raise UsageError(f"storage option number {position} must look like key=value or group.key=value")
        options[name] = value
    return options


def _nested(options: StorageOptions) -> dict[str, Any]:
    """Expand dotted keys ("client_kwargs.endpoint_url") into nested dicts and "true" / "false" into booleans."""
    nested: dict[str, Any] = {}
    for name, value in options.items():
        *groups, key = name.split(".")
        target = nested
        for group in groups:
            target = target.setdefault(group, {})
            if not isinstance(target, dict):
                raise UsageError(f"storage option {name!r}: {group!r} has a value of its own and cannot be a group")
        target[key] = {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
    return nested


def public_uri(uri: str) -> str:
    """Return ``uri`` fit for logs and tables: without user and password, signatures in its query blanked out."""
    parts = urlsplit(uri)
    if not parts.scheme or not (parts.query or "@" in parts.netloc):
        return uri
    query = "&".join(
        f"{name}=..." if separator and _SECRET_PARAMETER.search(name) else f"{name}{separator}{value}"
        for name, separator, value in (field.partition("=") for field in parts.query.split("&"))
    )
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query))


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
    if any(_s3_code(each) == "NoSuchBucket" for each in _chain(error)):
        return False
    return any(isinstance(each, FileNotFoundError) or _status(each) in _MISSING_STATUS for each in _chain(error))


def is_permission(error: BaseException) -> bool:
    """Whether ``error`` says that we may not: a run stops on it, for it concerns the set-up and no single image."""
    return any(
        isinstance(each, PermissionError)
        or _status(each) in _PERMISSION_STATUS
        or bool(_type_names(each) & _PERMISSION_TYPES)
        for each in _chain(error)
    )


def is_transient(error: BaseException) -> bool:
    """Whether ``error`` may go away by itself: time-outs, throttling, resets, short transfers, server errors."""
    if is_permission(error) or is_missing(error):
        return False
    return any(
        isinstance(each, (TimeoutError, ConnectionError, EOFError))
        or (isinstance(each, OSError) and each.errno in _TRANSIENT_ERRNOS)
        or _status(each) in _TRANSIENT_STATUS
        or bool(_type_names(each) & _TRANSIENT_TYPES)
        for each in _chain(error)
    )


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
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=directory)
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
