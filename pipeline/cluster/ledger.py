"""Keeps count of the rows that are staged, shard by shard, until a shard is complete."""

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
    """A shard whose rows are all staged. rows: how many rows; parts: the names of the staged files that hold them."""

    shard: int
    rows: int
    parts: tuple[str, ...]


class Ledger:
    """Adds up receipts until a shard is complete and then forgets it, so memory grows with shards in flight only."""

    def __init__(self, wanted: Mapping[int, int] | None = None) -> None:
        """wanted: how many rows are expected of shards that are labelled in part; all rows of other shards."""
        self._wanted = dict(wanted or {})
        self._in_flight: dict[int, _InFlight] = {}

    def __len__(self) -> int:
        return len(self._in_flight)

    def add(self, receipt: Mapping[str, Any]) -> StagedShard | None:
        """Account for one receipt (schema RECEIPTS); return the shard if the receipt completes it."""
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
        """Return how far each shard in flight is, for a diagnosis."""
        return {s: f"{len(e.rows)}/{'?' if e.total is None else e.total} rows" for s, e in self._in_flight.items()}
