"""Killed runs: one in every test run, the whole matrix where there is time for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.kill_matrix import MATRIX, Expected, Place, Setting, run_matrix, strike, table


def test_a_killed_worker_loses_nothing(setting: Setting, place: Place, expected: Expected) -> None:
    outcome = strike("worker", 1, place, setting, expected)
    assert outcome.wrong == []
    assert outcome.survived


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_the_whole_matrix(tmp_path: Path) -> None:
    wanted = [(kind, seed) for kind, count in MATRIX.items() for seed in range(count)]
    outcomes = run_matrix(Setting(folder=tmp_path), wanted, time.monotonic() + 6 * 3600)
    print("\n" + table(outcomes))
    assert len(outcomes) == sum(MATRIX.values())
    assert {f"{outcome.kind}:{outcome.seed}": outcome.wrong for outcome in outcomes if outcome.wrong} == {}
