"""Workers that cannot start: the command says why and ends, and signals and time-outs work from the first moment."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.attempts import Attempt, kill_tree
from tests.faults.images import small_jpeg
from tests.faults.tiny_model import CLASSES

ONLY_IN_WORKERS = """
import pathlib, sys, time
if any("default_worker.py" in argument for argument in sys.orig_argv):
    pathlib.Path({started!r}).touch()
    {body}
"""
"""A sitecustomize.py: Python runs it at its start, wherever the current folder is."""
BROKEN = 'raise SystemExit("this worker lacks a library")'
HANGING = "time.sleep(3600)"
LONGEST_S = 90.0
"""Thirty seconds are promised; a machine that other work keeps busy may take three times as long."""


def attempt(folder: Path, body: str, *more: str) -> Attempt:
    (folder / "in").mkdir()
    (folder / "in" / "a.jpg").write_bytes(small_jpeg(1))
    (folder / "path").mkdir()
    program = ONLY_IN_WORKERS.format(started=str(folder / "started"), body=body)
    (folder / "path" / "sitecustomize.py").write_text(program)
    arguments = ["label", str(folder / "in"), str(folder / "out"), "--classes", ",".join(CLASSES), "--cpus", "2"]
    return Attempt(
        arguments=[*arguments, "--gpus", "0", "--object-store-bytes", str(150 * 2**20), *more],
        log=folder / "log",
        environment={"PYTHONPATH": str(folder / "path")},
    )


@pytest.mark.slow
def test_the_workers_own_error_is_shown(tmp_path: Path) -> None:
    run = attempt(tmp_path, BROKEN)
    assert run.run(timeout_s=200) == 1
    log = run.log.read_text()
    assert "error: Ray's workers cannot start; the last one wrote" in log
    assert "SystemExit: this worker lacks a library" in log
    assert "run.py" not in log  # no traceback of ours


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signals_end_a_run_whose_workers_never_start(tmp_path: Path, name: str) -> None:
    number = signal.Signals[name]
    run = attempt(tmp_path, HANGING)
    process = run.start()
    deadline = time.monotonic() + 4 * LONGEST_S
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline, run.log.read_text()
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(LONGEST_S)
    code = process.exitcode
    kill_tree(process.pid)
    assert code == 128 + number, run.log.read_text()
    assert f"interrupted by {name}; run the same command to continue" in run.log.read_text()


@pytest.mark.slow
def test_the_stall_time_out_covers_the_start(tmp_path: Path) -> None:
    run = attempt(tmp_path, HANGING, "--batch-timeout-s", "4", "--stall-timeout-s", "6")
    assert run.run(timeout_s=120) == 1
    assert "did not end within 6 s" in run.log.read_text()
