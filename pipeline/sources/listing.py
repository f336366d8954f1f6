"""Finds the files of an input: a file, a folder, a glob or a brace pattern, on this machine or in a store."""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import fsspec
from fsspec.utils import glob_translate

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.sources.kinds import ending_of, kind_of, why_skipped
from maskmill.pipeline.sources.patterns import expand_braces
from maskmill.pipeline.sources.shard import SEGMENTATION_SUFFIX, member_name, segmentation_key
from maskmill.pipeline.sources.version import file_info, file_version, local_info
from maskmill.pipeline.storage.files import (
    StorageOptions,
    is_local,
    is_missing,
    is_permission,
    is_transient,
    open_filesystem,
    public_uri,
    with_retries,
    without_query,
)

LISTING_THREADS = 16
_GLOB_CHARACTERS = "*?["
_EXAMPLES = 5
_ATTEMPTS = 3
"""Fewer attempts than for reading: an address at which nobody answers should be reported in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """One file of an input. name: relative to the listing's root. location: URI or local path that opens it."""

    name: str
    location: str
    size_bytes: int
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """All files of an input, of one kind, sorted by name.

    kind: "tar", "parquet", "manifest" or "image", and "segmentation" where such files are preferred. skipped: how many
    other files are no input, by their ending or another reason.
    """

    kind: str
    root: str
    files: list[File]
    skipped: dict[str, int] = field(default_factory=dict)


def list_files(
    uri: str, storage_options: StorageOptions | None = None, *, prefer_segmentations: bool = False
) -> Listing:
    """Find the files of ``uri``. Raises UsageError when there are none, none of use, or several kinds together.

    prefer_segmentations: if any ``x.seg.png`` lies among the images, only such files are listed.
    """
    if not uri.strip():
        raise UsageError("the input is empty; give a file, a folder, a pattern or a manifest")
    fs, path = open_filesystem(uri, storage_options)
    try:
        found, root, explicit = _find(fs, path, uri)
    except Exception as error:
        if is_permission(error):
            raise UsageError(f"no permission to read {public_uri(uri)}: {type(error).__name__}") from error
        if isinstance(error, FileNotFoundError) and not is_transient(error):
            raise UsageError(f"no such bucket or folder: {public_uri(uri)}") from error
        if is_transient(error):
            raise ConnectionError(f"cannot reach {public_uri(uri)}: {error}") from error
        raise
    kind, infos, skipped = _one_kind(found, root, public_uri(uri), explicit, prefer_segmentations)
    files = [_file(fs, root, path, info) for path, info in sorted(infos.items())]
    return Listing(kind=kind, root=_location(fs, root), files=files, skipped=skipped)


Infos = dict[str, dict[str, Any]]
"""What the file system says of each file, by its path."""


def _find(fs: fsspec.AbstractFileSystem, path: str, uri: str) -> tuple[Infos, str, bool]:
    """Return the files, the root of their names, and whether a name or pattern, and not a folder, stands for them."""
    info = None if _bucket_is_pattern(fs, path) else _info(fs, path)
    if info is not None and _is_placeholder(path, info) and not is_local(fs) and (found := _walk(fs, path)):
        return found, path, False
    # A folder may be called "photos [2020]", so an address is read as a pattern only if nothing has that very name.
    if info is not None and info["type"] == "directory":
        return _walk(fs, path), path, False
    if info is not None:
        return {path: info}, posixpath.dirname(path), True
    if "{" not in path and not _is_glob(path):
        raise UsageError(f"no such file or folder: {public_uri(uri)}")
    paths = expand_braces(path) if "{" in path else [path]
    root = _common_folder(paths)
    globs = [each for each in paths if _is_glob(each)]
    found = _named(fs, [each for each in paths if not _is_glob(each)], uri)
    for pattern in globs:
        try:
            matches = with_retries(lambda pattern=pattern: _matches(fs, pattern))  # type: ignore[misc]
        except ValueError as error:
            raise UsageError(f"{public_uri(pattern)}: {error}") from error
        if not matches:
            raise UsageError(f"nothing matches {public_uri(pattern)}")
        # Local files are asked again, so that their time stamps have the same form as those of a walk.
        infos = {each: _present_info(each) if is_local(fs) else info for each, info in matches.items()}
        found |= {each: info for each, info in infos.items() if info["type"] != "directory"}
    return found, root, True


def _bucket_is_pattern(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    """Return whether braces in ``path`` stand for several buckets, so that no single file or folder can be looked up.

    Raises UsageError for wildcards in the name of the bucket: a user often may not list the buckets of a store.
    """
    if is_local(fs) or "://" in path:
        return False
    bucket = path.partition("/")[0]
    if _is_glob(bucket):
        raise UsageError(f"{bucket!r} cannot stand for buckets; list them, as in s3://{{a,b}}/*.tar")
    return "{" in bucket


def _is_placeholder(path: str, info: dict[str, Any]) -> bool:
    """Return whether this is an empty object that stands for a folder, as consoles and Hadoop write."""
    return not info.get("size") and (path.endswith(("/", "_$folder$")) or posixpath.splitext(path)[1] == "")


def _matches(fs: fsspec.AbstractFileSystem, pattern: str) -> Infos:
    if "s3" not in fs.protocol:
        return fs.glob(pattern, detail=True)
    # The glob of s3fs lists everything twice, the first time only to see that the folder exists; so it is not used.
    root = posixpath.dirname(_fixed_part(pattern))
    depth = None if "**" in pattern or "//" in pattern else pattern[len(root) :].count("/")
    matcher = re.compile(glob_translate(pattern))
    found = _below(fs, root, depth)
    return {path: info for path, info in found.items() if matcher.match(path)}


def _below(fs: fsspec.AbstractFileSystem, root: str, depth: int | None = None) -> Infos:
    """Return everything below ``root``, at most ``depth`` levels down."""
    bucket, _, key = root.partition("/")
    if "s3" in fs.protocol and key.startswith("/"):
        # A search by prefix is needed: for the folder "b//x", s3fs would look below "b/x".
        found: Infos = fs.find(bucket, prefix=f"{key}/", detail=True)
        return found
    found = fs.find(root, maxdepth=depth, detail=True)
    return found


def _is_glob(path: str) -> bool:
    return any(character in path for character in _GLOB_CHARACTERS)


def _common_folder(paths: Sequence[str]) -> str:
    """Return the deepest folder that holds all paths; parts with wildcards and parts below them do not count."""
    folders = [posixpath.dirname(_fixed_part(path)) for path in paths]
    # posixpath.commonpath is not used: it takes "a//b" and "a/b" for the same.
    levels = zip(*(folder.split("/") for folder in folders), strict=False)
    common = "/".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels))
    return common or ("/" if folders[0].startswith("/") else "")


def _fixed_part(path: str) -> str:
    stop = min((path.index(character) for character in _GLOB_CHARACTERS if character in path), default=len(path))
    return path[:stop]


def _info(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    """Return the information on ``path``, None if there is no such file or folder."""
    try:
        return with_retries(lambda: file_info(fs, path), attempts=_ATTEMPTS)
    except Exception as error:
        if isinstance(error, NotADirectoryError) or is_missing(error):
            return None
        raise


def _named(fs: fsspec.AbstractFileSystem, paths: list[str], uri: str) -> Infos:
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        infos = dict(zip(paths, pool.map(lambda path: _info(fs, path), paths), strict=True))
    missing = [path for path, info in infos.items() if info is None]
    if missing:
        shown = ", ".join(missing[:_EXAMPLES]) + (", ..." if len(missing) > _EXAMPLES else "")
        raise UsageError(f"{len(missing)} of the {len(paths)} files of {public_uri(uri)} do not exist: {shown}")
    return {path: info for path, info in infos.items() if info is not None}


def _walk(fs: fsspec.AbstractFileSystem, root: str) -> Infos:
    """Return every file below ``root``."""
    if is_local(fs):
        return dict(_walk_local(root))
    found: Infos = with_retries(lambda: _below(fs, root))
    return {path: info for path, info in found.items() if info["type"] != "directory" and path.rstrip("/") != root}


def _walk_local(root: str) -> Iterator[tuple[str, dict[str, Any]]]:
    def refuse(error: OSError) -> None:
        raise error

    for folder, subfolders, names in os.walk(root, onerror=refuse):
        # Hidden folders and links, which may lead in circles, are not entered; each counts as one skipped entry.
        closed = [each for each in subfolders if each.startswith(".") or os.path.islink(os.path.join(folder, each))]
        subfolders[:] = [each for each in subfolders if each not in closed]
        for name in [*names, *closed]:
            path = os.path.join(folder, name)
            yield path, _present_info(path)


def _present_info(path: str) -> dict[str, Any]:
    try:
        return local_info(path)
    except FileNotFoundError:
        # A link to nowhere is listed all the same: reading it then makes a row with an error.
        return {"type": "file", "size": 0, "mtime": 0}


def _one_kind(
    found: Infos, root: str, uri: str, explicit: bool, prefer_segmentations: bool
) -> tuple[str, Infos, dict[str, int]]:
    """Choose the files that are input and count the others. Text files count as manifests only if they were named."""
    if not found:
        raise UsageError(f"{uri} is empty")
    by_kind: dict[str, Infos] = {}
    skipped: Counter[str] = Counter()
    for path, info in found.items():
        name = without_query(path)
        kind = "segmentation" if prefer_segmentations and segmentation_key(name) else kind_of(name)
        if (reason := why_skipped(member_name(root, name), path, info)) is not None:
            skipped[reason] += 1
        elif kind is not None and (explicit or kind != "manifest"):
            by_kind.setdefault(kind, {})[path] = info
        else:
            skipped[SEGMENTATION_SUFFIX if segmentation_key(name) else ending_of(name)] += 1
    if "segmentation" in by_kind:
        by_kind.pop("image", None)
    if not by_kind:
        seen = ", ".join(f"{count} x {ending}" for ending, count in skipped.most_common(_EXAMPLES))
        raise UsageError(
            f"nothing in {uri} is a tar, a Parquet file, an image or a manifest (found {seen}); "
            "manifests (.txt .csv .jsonl .parquet) must be named themselves"
        )
    if len(by_kind) > 1:
        counts = ", ".join(f"{len(infos)} of kind {kind}" for kind, infos in sorted(by_kind.items()))
        raise UsageError(f"{uri} holds several kinds of input ({counts}); name one kind with a pattern like '*.tar'")
    ((kind, infos),) = by_kind.items()
    return kind, infos, dict(skipped.most_common())


def _location(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return path if is_local(fs) else str(fs.unstrip_protocol(path))


def _file(fs: fsspec.AbstractFileSystem, root: str, path: str, info: dict[str, Any]) -> File:
    return File(
        name=member_name(root, path),
        location=_location(fs, path),
        size_bytes=info.get("size") or 0,
        version=file_version(info),
    )
