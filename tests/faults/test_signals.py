"""SIGINT and SIGTERM at any moment: an exit code that says so within 30 seconds, and a run that can be continued."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import held
from tests.faults.attempts import kill_tree, wait_for_markers
from tests.faults.kill_matrix import Expected, Place, Setting

LONGEST_S = 90.0
"""Thirty seconds are promised; a machine that other work keeps busy may take three times as long."""


def interrupt(setting: Setting, name: str, number: int, markers: int, delay_s: float) -> int | None:
    """Start an attempt, send the signal so long after so many markers, and return its exit code.

    Its model never reaches the end, so that the run is under way at any time.
    """
    output = setting.folder / name
    attempt = replace(setting.attempt(output), model=held.MODEL)
    process = attempt.start()
    assert process.pid is not None
    # The server that forks attempts ignores SIGINT, and so does an attempt until it has begun; a shell's would not.
    while not attempt.log.exists():
        time.sleep(0.001)
    assert wait_for_markers(output, markers, process, 4 * LONGEST_S), "ended before the signal"
    time.sleep(delay_s)
    os.kill(process.pid, number)
    process.join(LONGEST_S)
    code = process.exitcode
    kill_tree(process.pid)
    assert code is not None, f"still alive {LONGEST_S:g} s after the signal"
    assert not (output / "_lease.json").exists()
    return code


MOMENTS = [(name, 0, half / 2) for name in ("SIGINT", "SIGTERM") for half in range(10)]
MOMENTS += [(name, markers, 0.0) for name in ("SIGINT", "SIGTERM") for markers in (1, 10)]
"""Signal, markers and seconds after them: while the program, Ray and the model start, and in mid run."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_interrupted_and_continued(tmp_path: Path) -> None:
    setting = Setting(folder=tmp_path, images=held.IMAGES, shard=held.IMAGES // held.SHARDS)
    setting.prepare()
    expected = Expected(setting, Place())
    outputs: set[Path] = set()
    for name, markers, delay_s in MOMENTS:
        # An output for each number of markers: those of an earlier attempt would be counted, too.
        outputs.add(setting.folder / f"{name}-{markers}")
        code = interrupt(setting, f"{name}-{markers}", signal.Signals[name], markers, delay_s)
        # Before anything of the run exists a signal ends the process as it ends any other.
        number = signal.Signals[name]
        early = set() if markers else {-number}
        assert code in {128 + number} | early, (name, delay_s)
    for output in sorted(outputs):
        assert setting.attempt(output).run() == 0
        assert expected.compare(output)[0] == []
