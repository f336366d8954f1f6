"""Finds what changed since the last run: new shards, shards with other data, and shards whose data is gone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maskmill.pipeline.config import OnChange
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.output.folder import INVENTORY_FILE, Output
from maskmill.pipeline.output.markers import read_versions
from maskmill.pipeline.output.ownership import some_names
from maskmill.pipeline.sources import Shard
from maskmill.pipeline.sources.listing import Listing


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """Shard ids, by what changed since the last run.

    new: shards without a marker. changed: the version of the data (entity tag or time, and size) is not that of the
    marker. vanished: there is a marker, but the file or folder is gone; the labels stay. superseded: there is a marker,
    but the file or folder is now cut into other shards; the labels are removed when those shards are committed.
    """

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()

    @property
    def to_label(self) -> frozenset[str]:
        """Return the shards that this run labels."""
        return frozenset(self.new + self.changed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """What the last finished run saw of its input, so that the next run need not read every marker: inventory.json.

    Where the two differ, the markers decide. shards: for every marker of the output, version and URI of its input.
    """

    listing: str
    shards: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    vanished: Sequence[str] = ()


def listing_digest(listing: Listing) -> str:
    """Return one hash of all names and versions; listings with the same hash have the same data."""
    found = hashlib.sha256()
    for file in listing.files:
        found.update(f"{file.location}\0{file.version}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def read_inventory(output: Output) -> Inventory | None:
    """Return what the last finished run saw, None if no run has finished."""
    plain = output.read_json(INVENTORY_FILE)
    if plain is None:
        return None
    shards = {shard_id: (version, uri) for shard_id, (version, uri) in plain["shards"].items()}
    return Inventory(listing=plain["listing"], shards=shards, vanished=tuple(plain["vanished"]))


def write_inventory(output: Output, digest: str, shards: Sequence[Shard], vanished: Iterable[str]) -> None:
    """Write what a run that has just finished saw: the ``shards`` of its input, and markers of ``vanished`` ones."""
    gone = sorted(vanished)
    seen = {shard.shard_id: (shard.version, shard.uri) for shard in shards}
    plain: dict[str, Any] = {"listing": digest, "vanished": gone, "shards": {**seen, **read_versions(output, gone)}}
    output.write_json(INVENTORY_FILE, plain)


def is_unchanged(inventory: Inventory | None, digest: str, done: Iterable[str]) -> bool:
    """Return whether the last finished run saw this same listing, and exactly its markers are still there."""
    return inventory is not None and inventory.listing == digest and set(inventory.shards) == set(done)


def find_changes(output: Output, shards: Sequence[Shard], inventory: Inventory | None, done: Iterable[str]) -> Changes:
    """Compare the input with the markers ``done``; read a marker only if the inventory lacks it or differs from it."""
    markers, known = set(done), dict(inventory.shards) if inventory else {}
    present = {shard.shard_id for shard in shards}
    unsure = [shard.shard_id for shard in shards if shard.shard_id in markers and _differs(shard, known)]
    gone = sorted(markers - present)
    versions = {**known, **read_versions(output, unsure + [each for each in gone if each not in known])}
    uris = {shard.uri for shard in shards}
    return Changes(
        new=tuple(shard.shard_id for shard in shards if shard.shard_id not in markers),
        changed=tuple(shard.shard_id for shard in shards if shard.shard_id in markers and _differs(shard, versions)),
        vanished=tuple(each for each in gone if versions[each][1] not in uris),
        superseded=tuple(each for each in gone if versions[each][1] in uris),
    )


def may_continue(
    output: Output, shards: Sequence[Shard], changes: Changes, known: set[str], on_change: OnChange
) -> bool:
    """Return whether a run that is not incremental keeps the finished shards; False: it starts from nothing.

    known: shards that an earlier run has accepted as vanished. Raises UsageError if the finished shards were made from
    another input and ``on_change`` does not say what to do: mixing both inputs could label images twice.
    """
    vanished = [each for each in changes.vanished if each not in known]
    if not (changes.changed or vanished or changes.superseded):
        return True
    if on_change == "restart":
        return False
    if on_change == "keep" and not changes.superseded:
        return True
    uris = {shard.shard_id: shard.uri for shard in shards}
    gone = {shard_id: uri for shard_id, (_, uri) in read_versions(output, [*vanished, *changes.superseded]).items()}
    found = [
        (changes.changed, "have other content", uris),
        (vanished, "have vanished", gone),
        (changes.superseded, "are cut otherwise, since files were added or removed", gone),
    ]
    told = [
        f"{len(shard_ids)} finished shards {what} ({some_names(dict.fromkeys(places[each] for each in shard_ids))})"
        for shard_ids, what, places in found
        if shard_ids
    ]
    raise UsageError(
        f"the input has changed since the output was made: {'; '.join(told)}; {len(changes.new)} shards are not yet "
        "labelled. --incremental labels what is new or changed and keeps the rest, --overwrite starts anew, "
        + ("" if changes.superseded else "--on-change keep leaves finished shards as they are, ")
        + "or choose another output"
    )


def _differs(shard: Shard, versions: Mapping[str, tuple[str, str]]) -> bool:
    # A shard of a manifest is named after its entries, so it is unchanged even if the file has a new version: when the
    # list only grew, its earlier shards stay as they were.
    if shard.kind == "manifest":
        return False
    known = versions.get(shard.shard_id)
    return known is None or known[0] != shard.version
