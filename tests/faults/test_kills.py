"""Killed runs: a few in every test run, the whole matrix where there is time for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.kill_matrix import MATRIX, Setting, run_matrix, table


def test_a_killed_driver_and_a_killed_worker_lose_nothing(tmp_path: Path) -> None:
    setting = Setting(folder=tmp_path, images=400, shard=40)
    outcomes = run_matrix(setting, [("driver", 1), ("worker", 1)], time.monotonic() + 600)
    assert [outcome.wrong for outcome in outcomes] == [[], []]
    killed_driver, killed_worker = outcomes
    assert killed_driver.resumes == 1
    assert killed_worker.survived


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_the_whole_matrix(tmp_path: Path) -> None:
    wanted = [(kind, seed) for kind, count in MATRIX.items() for seed in range(count)]
    outcomes = run_matrix(Setting(folder=tmp_path), wanted, time.monotonic() + 6 * 3600)
    print("\n" + table(outcomes))
    assert len(outcomes) == sum(MATRIX.values())
    assert {f"{outcome.kind}:{outcome.seed}": outcome.wrong for outcome in outcomes if outcome.wrong} == {}
