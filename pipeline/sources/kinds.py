"""Tells by its name what kind of input a file is, and why a file is none."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from maskmill.pipeline.sources.manifest import TEXT_SUFFIXES
from maskmill.pipeline.sources.shard import is_image_name

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIXES = (".parquet", ".pq")
ENDINGS_SHOWN = 5


def kind_of(name: str) -> str | None:
    """Return the kind of input that a file of this name is: "tar", "parquet", "manifest", "image", or None."""
    if posixpath.basename(name).startswith("."):
        return None
    lower = name.lower()
    if lower.endswith(TAR_SUFFIXES):
        return "tar"
    if lower.endswith(PARQUET_SUFFIXES):
        return "parquet"
    if lower.endswith(TEXT_SUFFIXES):
        return "manifest"
    return "image" if is_image_name(name) else None


_HIDDEN, _LINK, _PLACEHOLDER, _NO_ENDING = "hidden files", "links to folders", "placeholders of folders", "no ending"
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")


def why_skipped(name: str, path: str, info: dict[str, Any]) -> str | None:
    """Return the reason for which a file is no input in spite of its ending, None where there is no reason."""
    parts = name.split("/")
    if any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1].lower() in _SYSTEM_FILES:
        return _HIDDEN
    if info["type"] == "directory":
        return _LINK
    return _PLACEHOLDER if not info.get("size") and path.endswith(("/", "_$folder$")) else None


def ending_of(path: str) -> str:
    """Return the ending of a name in lower case, or "no ending"."""
    return posixpath.splitext(path)[1].lower() or _NO_ENDING


def skipped_text(skipped: Mapping[str, int], most: int = ENDINGS_SHOWN) -> str:
    """Return a text about the files that are no input: "3 x .txt, 1 x no ending, 2 others"."""
    ordered = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count:,} x {ending}" for ending, count in ordered[:most]]
    rest = sum(count for _, count in ordered[most:])
    return ", ".join([*shown, *([f"{rest:,} others"] if rest else [])])
