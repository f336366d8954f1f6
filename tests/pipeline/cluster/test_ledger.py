"""A shard is complete when every row it has is staged, in whatever order the receipts come."""

from __future__ import annotations

from typing import Any

from maskmill.pipeline.cluster.ledger import Ledger, StagedShard


def receipt(shard: int, rows: list[int], part: str | None, total: int | None = None) -> dict[str, Any]:
    return {"shard": shard, "rows": rows, "part": part, "total": total, "failed": 0}


def test_completes_when_the_last_row_arrives_after_the_end_mark() -> None:
    ledger = Ledger()
    assert ledger.add(receipt(0, [2, 3], "b", total=4)) is None
    assert ledger.add(receipt(1, [0], "x")) is None
    assert ledger.add(receipt(0, [0, 1], "a")) == StagedShard(0, 4, ("b", "a"))
    assert ledger.describe() == {1: "1/? rows"}


def test_completes_with_the_end_mark_after_the_last_row() -> None:
    ledger = Ledger()
    ledger.add(receipt(0, [0, 1], "a"))
    assert ledger.add(receipt(0, [], None, total=2)) == StagedShard(0, 2, ("a",))
    assert len(ledger) == 0


def test_rows_that_come_twice_count_once() -> None:
    ledger = Ledger()
    ledger.add(receipt(0, [0, 1], "a"))
    assert ledger.add(receipt(0, [0, 1], "again", total=3)) is None
    assert ledger.add(receipt(0, [2], "c")) == StagedShard(0, 3, ("a", "again", "c"))


def test_an_empty_shard_completes_by_its_end_mark() -> None:
    assert Ledger().add(receipt(7, [], None, total=0)) == StagedShard(7, 0, ())


def test_a_retry_waits_only_for_the_rows_asked_for() -> None:
    ledger = Ledger({0: 2})
    assert ledger.add(receipt(0, [5], "a", total=100)) is None
    assert ledger.add(receipt(0, [9], "b")) == StagedShard(0, 2, ("a", "b"))
