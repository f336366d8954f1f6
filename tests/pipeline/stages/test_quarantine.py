"""A row that kills its worker is found, tried alone and kept away; its neighbours are labelled."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.stages.quarantine import History, Quarantine, TooManyDeathsError, Trail
from maskmill.pipeline.stages.rows import Row

ROWS = [{"shard": 0, "row": n} for n in range(8)]


class WorkerDied(BaseException):
    """Stands for the end of the process: nothing after it runs, and breadcrumbs stay."""


def deadly(*killers: int) -> Any:
    def work(rows: list[Row]) -> list[Row]:
        for row in rows:
            if row["row"] in killers:
                raise WorkerDied
        return [{"done": row["row"]} for row in rows]

    return work


def run_with_restarts(trail: Trail, work: Any, limit: int = 50) -> tuple[list[Any], int]:
    for deaths in range(limit):
        try:
            return Quarantine(trail, "segment", timeout_s=60)(ROWS, work), deaths
        except WorkerDied:
            continue
    raise AssertionError("restarted without end")


@pytest.mark.parametrize("killers", [(3,), (0, 7), (1, 2, 3)])
def test_killers_become_errors_and_the_rest_is_done(killers: tuple[int, ...]) -> None:
    results, deaths = run_with_restarts(Trail(), deadly(*killers))
    for row, result in zip(ROWS, results, strict=True):
        if row["row"] in killers:
            assert isinstance(result, BadImageError)
            assert result.error_class == "worker_died"
        else:
            assert result == {"done": row["row"]}
    assert deaths == 2 + 2 * len(killers)


def test_a_clean_run_leaves_no_trace() -> None:
    trail = Trail()
    results, deaths = run_with_restarts(trail, deadly())
    assert deaths == 0
    assert [result["done"] for result in results] == list(range(8))
    assert not trail.open
    assert not trail.suspects


def test_one_lost_worker_is_not_held_against_the_rows() -> None:
    trail = Trail()
    trail.begin([f"segment/0/{n}" for n in range(8)], alone=False)  # its node was lost
    results, deaths = run_with_restarts(trail, deadly())
    assert deaths == 0
    assert not any(isinstance(result, BadImageError) for result in results)


def test_workers_that_always_die_end_the_run() -> None:
    trail = Trail(max_deaths=5)

    def lost(rows: list[Row]) -> list[Row]:
        raise WorkerDied

    with pytest.raises(TooManyDeathsError, match="died 6 times"):
        run_with_restarts(trail, lost)


def hang(connection: Any) -> None:
    class Client:
        def begin(self, keys: Sequence[str], alone: bool) -> list[History]:
            return [History() for _ in keys]

        def end(self, keys: Sequence[str]) -> None:
            connection.send("ended")

        def overran(self, keys: Sequence[str]) -> None:
            connection.send(list(keys))

    def forever(rows: list[Row]) -> list[Row]:
        while True:
            pass

    Quarantine(Client(), "segment", timeout_s=0.3)(ROWS[:2], forever)


def test_a_worker_that_hangs_says_so_and_ends_itself() -> None:
    receiver, sender = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=hang, args=(sender,))
    process.start()
    process.join(20)
    assert process.exitcode == 113
    assert receiver.recv() == ["segment/0/0", "segment/0/1"]


def test_time_outs_are_told_from_deaths() -> None:
    trail = Trail()

    def overrun(rows: list[Row]) -> list[Row]:
        if any(row["row"] == 4 for row in rows):
            trail.overran([f"segment/0/{row['row']}" for row in rows])
            raise WorkerDied
        return [{} for _ in rows]

    results, _ = run_with_restarts(trail, overrun)
    assert isinstance(results[4], BadImageError)
    assert results[4].error_class == "timed_out"


def test_memory_beyond_the_limit_is_refused_and_the_rest_goes_on() -> None:
    program = """
from maskmill.pipeline.stages.quarantine import Quarantine, Trail
from maskmill.pipeline.errors import BadImageError
quarantine = Quarantine(Trail(), "segment", timeout_s=60, memory_bytes=2**28)
def take(rows):
    return [{"size": len(bytes(row["megabytes"] * 2**20))} for row in rows]
row = {"shard": 0, "row": 0}
print(quarantine([{**row, "megabytes": 200}], take))
try:
    quarantine([{**row, "megabytes": 300}], take)
except MemoryError:
    print("refused")
print(quarantine([{**row, "megabytes": 200}], take))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["[{'size': 209715200}]", "refused", "[{'size': 209715200}]"]
