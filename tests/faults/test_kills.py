"""Killed runs: one in every test run, two of each kind in CI, the whole matrix where there is time for it."""

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
@pytest.mark.timeout(3600)
def test_faults_of_each_kind(tmp_path: Path) -> None:
    """Numbers 0 and 1 of each kind: on a Ray of the run's own, and on a cluster that outlives it."""
    wanted = [(kind, seed) for kind in MATRIX for seed in range(2)]
    outcomes = run_matrix(Setting(folder=tmp_path, images=400, shard=20), wanted, time.monotonic() + 3600)
    print("\n" + table(outcomes))
    assert [(outcome.kind, outcome.seed) for outcome in outcomes] == wanted
    assert {f"{outcome.kind}:{outcome.seed}": outcome.wrong for outcome in outcomes if outcome.wrong} == {}


@pytest.mark.slow
@pytest.mark.marathon
@pytest.mark.timeout(6 * 3600)
def test_the_whole_matrix(tmp_path: Path) -> None:
    wanted = [(kind, seed) for kind, count in MATRIX.items() for seed in range(count)]
    outcomes = run_matrix(Setting(folder=tmp_path), wanted, time.monotonic() + 6 * 3600)
    print("\n" + table(outcomes))
    assert len(outcomes) == sum(MATRIX.values())
    assert {f"{outcome.kind}:{outcome.seed}": outcome.wrong for outcome in outcomes if outcome.wrong} == {}
