"""Brings the addresses of files and folders to one form, and says whether one place lies inside another."""

from __future__ import annotations

import os
import posixpath
from fnmatch import fnmatchcase

from maskmill.pipeline.uris import is_chained, local_path, scheme_of

_LOCAL_SCHEMES = (None, "file", "local")
_SAME_STORE = {"s3a": "s3", "gcs": "gs", "adl": "az", "abfs": "az", "abfss": "az"}
"""Schemes that are other names of the same store."""
GLOB_CHARACTERS = "*?["


def is_local_address(uri: str) -> bool:
    """Whether ``uri`` names a place of this machine's file system: a path, or a ``file:`` address."""
    return not is_chained(uri) and scheme_of(uri) in _LOCAL_SCHEMES


def absolute(uri: str) -> str:
    """``uri`` in the one form that all spellings of the place share; patterns stay patterns.

    A local place becomes an absolute path without ``.``, ``..``, ``file:`` and closing slashes; symbolic links are not
    resolved. A store's address only loses its closing slashes, since every other character of a key counts.
    """
    if not uri.strip() or is_chained(uri):
        return uri
    if is_local_address(uri):
        return os.path.abspath(local_path(uri))
    scheme, _, rest = uri.partition("://")
    # A web address is not changed: it may end in a signature, in which a slash counts.
    return uri if scheme.startswith("http") else f"{_SAME_STORE.get(scheme, scheme)}://{rest.rstrip('/')}"


def absolute_if_local(value: str) -> str:
    """``value`` with an absolute path if it names a file or folder of this machine, else unchanged.

    In open_clip's form "model:file" the file is made absolute.
    """
    if is_local_address(value) and (value.startswith(("file:", "local:")) or os.path.exists(value)):
        return absolute(value)
    name, separator, file = value.partition(":")
    return f"{name}:{absolute(file)}" if separator and os.path.isfile(file) else value


def is_pattern(uri: str) -> bool:
    """Whether an input address has wildcards or braces."""
    return "{" in uri or any(character in uri for character in GLOB_CHARACTERS)


def fixed_folder(pattern: str) -> str:
    """The folder that everything a pattern matches lies in: the part before its first wildcard or brace."""
    stop = min(at for at in (pattern.find(character) for character in GLOB_CHARACTERS + "{") if at >= 0)
    return pattern[:stop].rpartition("/")[0] or "/"


def is_inside(inner: str, outer: str) -> bool:
    """Whether the place ``inner`` is ``outer`` or lies below it. Neither need exist; symbolic links are followed."""
    inner, outer = absolute(inner), absolute(outer)
    if is_local_address(inner) != is_local_address(outer):
        return False
    if not is_local_address(inner):
        return inner == outer or inner.startswith(outer + "/")
    real_inner, real_outer = os.path.realpath(inner), os.path.realpath(outer)
    if posixpath.commonpath([real_inner, real_outer]) == real_outer:
        return True
    # The paths may differ although the folder is the same: mounted twice, or on a disk that ignores case.
    return _has_ancestor(real_inner, real_outer)


def _has_ancestor(path: str, folder: str) -> bool:
    try:
        wanted = os.stat(folder)
    except OSError:
        return False
    while True:
        try:
            if os.path.samestat(os.stat(path), wanted):
                return True
        except OSError:
            pass  # this part of the path does not exist yet; its first existing ancestor decides
        parent = os.path.dirname(path)
        if parent == path:
            return False
        path = parent


def may_match_inside(pattern: str, folder: str) -> bool:
    """Whether a glob pattern without braces could match a path below ``folder``; both in the form of `absolute`."""
    steps, names = pattern.split("/"), folder.rstrip("/").split("/")
    for step, name in zip(steps, names, strict=False):
        if "**" in step:
            return True
        if not fnmatchcase(name, step):
            return False
    return len(steps) > len(names)
