"""Checks before any work starts that a place can be written to, and leaves nothing there."""

from __future__ import annotations

import os
import posixpath
import tempfile
import uuid

from fsspec import AbstractFileSystem

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.storage.files import (
    UNFINISHED_PREFIX,
    UNFINISHED_SUFFIX,
    StorageOptions,
    is_local,
    is_transient,
    open_filesystem,
    public_uri,
    with_retries,
)

PROBE_BYTES = 2**20
"""Size of the file written as a trial: a disk with less room counts as full."""
_ATTEMPTS = 3


def check_writable(uri: str, storage_options: StorageOptions | None = None, *, what: str = "the output") -> None:
    """Raise UsageError, naming the cause, if no file can be written below ``uri``.

    A file is written there, or to the folder in which ``uri`` would be made, and removed again. Raises ConnectionError
    where a store does not answer.
    """
    if not uri.strip():
        raise UsageError(f"{what} is empty; give a folder or a writable address")
    if uri.startswith(("http://", "https://")):
        raise UsageError(f"{what} {public_uri(uri)} cannot be written to: web addresses can only be read")
    fs, path = open_filesystem(uri, storage_options)
    if is_local(fs):
        _probe_local(path, f"{what} {public_uri(uri)}")
    else:
        _probe_store(fs, path, f"{what} {public_uri(uri)}")


def check_file_writable(uri: str, storage_options: StorageOptions | None = None, *, what: str = "the file") -> None:
    """Raise UsageError if the file ``uri`` cannot be written: its folder is tried, and ``uri`` must be no folder."""
    fs, path = open_filesystem(uri, storage_options)
    if is_local(fs) and os.path.isdir(path):
        raise UsageError(f"{what} {uri} is a folder; name a file")
    folder = posixpath.dirname(path) or "/"
    check_writable(folder if is_local(fs) else str(fs.unstrip_protocol(folder)), storage_options, what=f"{what} in")


def _probe_local(path: str, shown: str) -> None:
    folder = path
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        kind = "is a link to nowhere" if os.path.islink(folder) and not os.path.exists(folder) else "is a file"
        raise UsageError(f"{shown} cannot be written to: {folder} {kind}, not a folder; choose another place")
    try:
        with tempfile.NamedTemporaryFile(prefix=UNFINISHED_PREFIX, suffix=UNFINISHED_SUFFIX, dir=folder) as stream:
            stream.write(bytes(PROBE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise UsageError(f"{shown} cannot be written to: {error.strerror} ({folder})") from error


def _probe_store(fs: AbstractFileSystem, path: str, shown: str) -> None:
    name = f"{path.rstrip('/')}/{UNFINISHED_PREFIX}{uuid.uuid4().hex[:8]}{UNFINISHED_SUFFIX}"
    try:
        with_retries(lambda: fs.pipe_file(name, b""), attempts=_ATTEMPTS)
        with_retries(lambda: fs.rm_file(name), attempts=_ATTEMPTS)
    except Exception as error:  # clients of stores share no class of errors
        if is_transient(error):
            raise ConnectionError(f"cannot reach {shown}: {error}") from error
        raise UsageError(f"{shown} cannot be written to: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, NotImplementedError):
        return "this kind of address can only be read"
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket"
    return str(error) or type(error).__name__
