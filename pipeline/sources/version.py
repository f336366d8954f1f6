"""Asks a store about a file, and makes of the answer a version that changes with the file's content."""

from __future__ import annotations

import os
import stat
from typing import Any

import fsspec

from maskmill.pipeline.storage.files import is_local

_STAMPS = (
    "ETag",
    "etag",
    "content_md5",
    "crc32c",
    "mtime",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "updated",
)


def file_info(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any]:
    """Return ``type`` ("file" or "directory"), ``size`` (None if unknown) and the store's time stamps and hashes."""
    return local_info(path) if is_local(fs) else fs.info(path)


def local_info(path: str) -> dict[str, Any]:
    """Return the same for a path of this machine; a symbolic link gives the information on its target."""
    status = os.stat(path)
    kind = "directory" if stat.S_ISDIR(status.st_mode) else "file"
    return {"type": kind, "size": status.st_size, "mtime": status.st_mtime_ns}


def file_version(info: dict[str, Any]) -> str:
    """Return the entity tag, else the modification time, joined with the size. info: from `file_info` or a listing."""
    for key in _STAMPS:
        if value := info.get(key):
            stamp = value.isoformat() if hasattr(value, "isoformat") else str(value)
            return f"{stamp.strip(chr(34))}-{info.get('size')}"
    return f"size-{info.get('size')}"
