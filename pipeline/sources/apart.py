"""Refuses an output that lies inside the input or holds it, however the two addresses are spelt."""

from __future__ import annotations

import os
import posixpath
import sys
from typing import IO

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.sources.listing import Listing
from maskmill.pipeline.sources.manifest import read_entries, resolve
from maskmill.pipeline.sources.patterns import expand_braces
from maskmill.pipeline.storage.addresses import (
    absolute,
    fixed_folder,
    is_inside,
    is_local_address,
    is_pattern,
    may_match_inside,
)
from maskmill.pipeline.storage.files import StorageOptions, open_filesystem, public_uri
from maskmill.pipeline.storage.text_files import suffix_of

WRITTEN_SUFFIXES = (".parquet", ".json", ".html", ".md")
"""Endings of the files that commands write into an output folder under names that the user did not choose."""
_PIECE_BYTES = 2**20


def check_apart(
    target: str,
    source: str,
    *,
    written: str = "the output",
    read: str = "the input",
    any_name: bool = False,
    may_hold: bool = False,
) -> None:
    """Raise UsageError if one of the two places lies in the other, or the pattern ``source`` could match in ``target``.

    written, read: what the messages call ``target`` and ``source``. any_name: files of any name are written, not only
    those of WRITTEN_SUFFIXES. may_hold: ``target`` may hold ``source``. Neither place need exist.
    """
    if not source.strip() or not target.strip():
        return  # the code that reads or writes the place reports the empty address
    place, origin = absolute(target), absolute(source)
    literal = not is_pattern(origin) or (is_local_address(origin) and os.path.exists(origin))
    folder = origin if literal else fixed_folder(origin)
    shown = f"{written} {public_uri(target)!r}", f"{read} {public_uri(source)!r}"
    advice = f"choose another place, such as {public_uri(_beside(folder))}"
    if not may_hold and is_inside(folder, place):
        raise UsageError(f"{shown[0]} holds {shown[1]}; {advice}")
    inside = is_inside(place, folder)
    if not literal:
        inside = inside and any(_matches_inside(each, folder, place, any_name) for each in expand_braces(origin))
    if inside:
        raise UsageError(f"{shown[0]} lies inside of {shown[1]} and would be read with it; {advice}")


def _beside(folder: str) -> str:
    parent, _, name = folder.rpartition("/")
    return f"{parent}/{name}-labels" if parent.rstrip("/") and "//" not in name else "a folder beside it"


def _matches_inside(pattern: str, folder: str, place: str, any_name: bool) -> bool:
    """Whether the brace-free ``pattern`` below ``folder`` could match what is written into ``place``."""
    if is_local_address(folder):
        real = os.path.realpath(folder)
        pattern, place = f"{real.rstrip('/')}/{pattern[len(folder.rstrip('/')) + 1 :]}", os.path.realpath(place)
    if not may_match_inside(pattern, place):
        return False
    ending = min((pattern.rpartition(character)[2] for character in "*?]/" if character in pattern), key=len)
    fits = any(suffix.endswith(ending) or ending.endswith(suffix) for suffix in WRITTEN_SUFFIXES)
    return any_name or fits or "**" in pattern


def check_listing_apart(target: str, listing: Listing) -> None:
    """Raise UsageError if a file of the input lies in ``target`` through a link, which its address does not show."""
    apart = _Apart(target)
    for file in listing.files:
        # Of images only the folder is checked: there may be millions, and asking each one whether it is a link is slow.
        whole = listing.kind not in ("tar", "parquet")
        apart.check(file.location, posixpath.dirname(file.location) if whole else file.location)


def check_entries_apart(
    target: str, listing: Listing, image_column: str | None, storage_options: StorageOptions | None = None
) -> None:
    """Raise UsageError if an entry of a text manifest lies in ``target``.

    The entries are parsed only if the manifest holds the name of the target's folder somewhere.
    """
    if listing.kind != "manifest":
        return
    apart, wanted = _Apart(target), posixpath.basename(absolute(target)).encode("utf-8", "surrogateescape")
    for file in listing.files:
        fs, path = open_filesystem(file.location, storage_options)
        with fs.open(path, "rb") as stream:
            if not _mentions(stream, wanted):
                continue
            suffix = suffix_of(file.location)
            for entry in read_entries(stream, suffix, offset=0, count=sys.maxsize, image_column=image_column):
                if entry.uri is not None:
                    place = absolute(resolve(entry.uri, file.location))
                    apart.check(place, posixpath.dirname(place))


class _Apart:
    """Refuses files that lie in ``target``; every folder is checked once."""

    def __init__(self, target: str) -> None:
        self._target, self._place = target, absolute(target)
        self._known: dict[str, bool] = {}

    def check(self, location: str, folder: str) -> None:
        """Raise UsageError, naming the file at ``location``, if its ``folder`` lies in the target."""
        if folder not in self._known:
            self._known[folder] = is_inside(folder, self._place)
        if self._known[folder]:
            raise UsageError(
                f"the input names {public_uri(location)!r}, which lies in the output {public_uri(self._target)!r}; "
                "choose another output"
            )


def _mentions(stream: IO[bytes], wanted: bytes) -> bool:
    """Whether the bytes ``wanted`` occur in the stream, which is left at its beginning."""
    before, found = b"", False
    while not found and (piece := stream.read(_PIECE_BYTES)):
        found = wanted in before + piece
        before = piece[-len(wanted) :]
    stream.seek(0)
    return found
