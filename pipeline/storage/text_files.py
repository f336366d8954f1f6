"""Reads small text files that people wrote, in any Unicode encoding that editors save."""

from __future__ import annotations

import codecs
import json
import posixpath
from typing import Any

import yaml

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.storage.files import (
    StorageOptions,
    is_missing,
    is_permission,
    open_filesystem,
    public_uri,
    read_bytes,
    without_query,
)

YAML_SUFFIXES = (".yaml", ".yml")

# UTF-32 comes before UTF-16: the little-endian mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def suffix_of(uri: str) -> str:
    """The ending of a file's name in lower case, with its dot; "" where there is none."""
    return posixpath.splitext(without_query(uri))[1].lower()


def decode_text(data: bytes, name: str) -> str:
    """Return the text of a file: UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 with one.

    Raises UsageError with ``name``, the line and the byte for anything else. Latin-1 is not tried: every file is
    valid Latin-1, so a wrong guess would only show as wrong class names.
    """
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{name}: byte {error.start} (0x{data[error.start]:02x}, line {line}) is not {encoding.upper()}; save the "
            "file as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UsageError(f"{name}: line {line} holds a zero byte, so this is no text in UTF-8; save the file as UTF-8")
    return text


def read_text(uri: str, storage_options: StorageOptions | None = None) -> str:
    """Return the text of a file at any fsspec URI. Raises UsageError where there is no file, or access is refused."""
    fs, path = open_filesystem(uri, storage_options)
    shown = public_uri(uri)
    try:
        data = read_bytes(fs, path)
    except Exception as error:
        if is_missing(error):
            raise UsageError(f"there is no file {shown}") from error
        if isinstance(error, IsADirectoryError):
            raise UsageError(f"{shown} is a folder, not a file") from error
        if is_permission(error):
            raise UsageError(f"{shown} may not be read: {type(error).__name__}") from error
        raise
    return decode_text(data, shown)


def parse_data(text: str, name: str) -> Any:
    """Parse JSON if ``name`` ends in .json, else YAML. Raises UsageError with ``name`` and the place of the mistake."""
    is_json = suffix_of(name) == ".json"
    try:
        return json.loads(text) if is_json else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{name} is not valid {'JSON' if is_json else 'YAML'}: {reason}") from error
