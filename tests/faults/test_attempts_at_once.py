"""Two attempts at one output, as a cluster's overlapping retries make them: refused, or forced and still whole."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import held
from tests.faults.attempts import kill_tree, wait_for_markers
from tests.faults.kill_matrix import Expected, Place, Setting


@pytest.mark.slow
def test_the_second_is_refused_or_takes_over_and_the_result_is_whole(
    setting: Setting, place: Place, expected: Expected
) -> None:
    output = setting.folder / "at-once"
    first = replace(setting.attempt(output, *place.arguments), model=held.MODEL).start()
    assert wait_for_markers(output, 1, first, 600)
    refused = setting.attempt(output, *place.arguments, "--dry-run")
    assert refused.run() == 0  # it only looks
    refused = setting.attempt(output, *place.arguments)
    second = setting.attempt(output, *place.arguments, "--take-over").start()
    assert refused.run() == 1
    assert "the output is in use by" in refused.log.read_text()
    second.join(600)
    assert second.exitcode == 0
    assert first.exitcode in (None, 1)  # it stops when it notices that it was superseded
    kill_tree(first.pid)
    assert setting.attempt(output, *place.arguments).run() == 0
    assert expected.compare(output)[0] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_forced_at_any_moment(tmp_path: Path) -> None:
    setting = Setting(folder=tmp_path, images=1200, shard=40)
    setting.prepare()
    expected = Expected(setting, Place())
    for markers_first in (0, 5, 15, 28):
        output = setting.folder / f"out-{markers_first}"
        first = setting.attempt(output).start()
        wait_for_markers(output, markers_first, first, 600)
        while not (output / "_lease.json").exists() and first.exitcode is None:
            time.sleep(0.01)
        second = setting.attempt(output, "--take-over").start()
        third = setting.attempt(output, "--take-over").start()
        for process in (first, second, third):
            process.join(600)
            assert process.exitcode in (0, 1)
        assert setting.attempt(output).run() == 0
        assert expected.compare(output)[0] == []
