"""The driver's only state: which rows of the shards in flight are staged, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class _InFlight:
    rows: set[int] = field(default_factory=set)
    parts: list[str] = field(default_factory=list)
    total: int | None = None


@dataclass(frozen=True, slots=True)
class StagedShard:
    """A shard all of whose rows are staged. rows: how many there are; parts: staged files that hold them."""

    shard: int
    rows: int
    parts: tuple[str, ...]


class Ledger:
    """Adds up receipts until a shard is complete, then forgets it; grows with shards in flight, not with the data."""

    def __init__(self, wanted: Mapping[int, int] | None = None) -> None:
        """wanted: for shards of which only some rows were asked for, how many; all rows of every other shard."""
        self._wanted = dict(wanted or {})
        self._in_flight: dict[int, _InFlight] = {}

    def __len__(self) -> int:
        return len(self._in_flight)

    def add(self, receipt: Mapping[str, Any]) -> StagedShard | None:
        """Account for one receipt (schema RECEIPTS); returns the shard if this completes it."""
        shard = receipt["shard"]
        entry = self._in_flight.setdefault(shard, _InFlight())
        entry.rows.update(receipt["rows"])
        if receipt["part"] is not None:
            entry.parts.append(receipt["part"])
        if receipt["total"] is not None:
            entry.total = receipt["total"]
        if entry.total is None:
            return None
        expected = self._wanted.get(shard, entry.total)
        if len(entry.rows) < expected:
            return None
        del self._in_flight[shard]
        return StagedShard(shard, expected, tuple(entry.parts))

    def describe(self) -> dict[int, str]:
        """For a diagnosis: the shards in flight and how far each is."""
        return {s: f"{len(e.rows)}/{'?' if e.total is None else e.total} rows" for s, e in self._in_flight.items()}
