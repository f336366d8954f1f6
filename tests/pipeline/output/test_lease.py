"""One attempt at a time: who holds an output, when a lease is void, and what a take-over does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from maskmill.pipeline.output import lease as lease_module
from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.output.lease import (
    LAPSES_S,
    LEASE,
    LeaseHeldError,
    LeaseKeeper,
    LeaseLostError,
    held_lease,
    read_lease,
)

HOLD_AND_WAIT = """
import sys
from maskmill.pipeline.output.lease import held_lease
from maskmill.pipeline.output.folder import Output
with held_lease(Output(sys.argv[1]), "other", False):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(str(tmp_path))


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD_AND_WAIT, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_is_given_back(output: Output) -> None:
    with held_lease(output, "one", take_over=False):
        held = read_lease(output)
        assert held is not None
        assert held.attempt == "one"
    assert read_lease(output) is None


def test_taken_over_it_outlives_the_end_of_its_old_holder(output: Output) -> None:
    first, second = LeaseKeeper(output, "one"), LeaseKeeper(output, "two")
    first.start(take_over=False)
    second.start(take_over=True)
    first.stop()  # before it has noticed
    held = read_lease(output)
    assert held is not None
    assert held.attempt == "two"
    second.stop()
    assert read_lease(output) is None


def test_refuses_a_second_attempt_and_names_the_holder(output: Output, holder: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(LeaseHeldError, match=rf"process {holder.pid}, attempt other\), since \d+ s"),
        held_lease(output, "two", take_over=False),
    ):
        pass
    held = read_lease(output)
    assert held is not None
    assert held.attempt == "other"


def test_of_a_killed_process_is_void_at_once(output: Output, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with held_lease(output, "two", take_over=False):
        held = read_lease(output)
        assert held is not None
        assert held.attempt == "two"


def test_from_another_machine_is_void_once_it_lapses(output: Output, holder: subprocess.Popen[str]) -> None:
    held = read_lease(output)
    assert held is not None
    elsewhere = replace(held, host="elsewhere")
    assert not elsewhere.is_void(elsewhere.renewed_at + LAPSES_S - 1)
    assert elsewhere.is_void(elsewhere.renewed_at + LAPSES_S + 1)


def test_taken_over_is_noticed_and_left_to_its_new_holder(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEW_S", 0.05)
    with held_lease(output, "one", take_over=False) as keeper:
        first = read_lease(output)
        assert first is not None
        output.write_bytes(LEASE, json.dumps(asdict(replace(first, attempt="two"))).encode())
        deadline = time.monotonic() + 60
        while keeper.taken_by is None and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(LeaseLostError, match="attempt two"):
            keeper.check()
    held = read_lease(output)
    assert held is not None
    assert held.attempt == "two"
