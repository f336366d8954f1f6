"""Two attempts at one output, as a cluster's overlapping retries make them: refused, or forced and still whole."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.attempts import wait_for_markers
from tests.faults.kill_matrix import Expected, Setting


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    setting = Setting(folder=tmp_path, images=1200, shard=40)
    setting.prepare()
    return setting


def test_the_second_is_refused_or_takes_over_and_the_result_is_whole(setting: Setting) -> None:
    expected, output = Expected(setting), setting.folder / "out"
    first = setting.attempt(output).start()
    try:
        assert wait_for_markers(output, 2, first, 120)
        refused = setting.attempt(output)
        assert refused.run() == 1
        assert "the output is in use by" in refused.log.read_text()
        assert f"process {first.pid}" in refused.log.read_text()
        assert setting.attempt(output, "--take-over").run() == 0
    finally:
        first.join(120)
    # The first one notices within seconds and stops, or had finished before.
    assert first.exitcode in (0, 1)
    assert setting.attempt(output).run() == 0
    assert expected.compare(output)[0] == []


@pytest.mark.slow
def test_forced_at_any_moment(setting: Setting) -> None:
    expected = Expected(setting)
    for markers_first in (0, 5, 15, 28):
        output = setting.folder / f"out-{markers_first}"
        first = setting.attempt(output).start()
        wait_for_markers(output, markers_first, first, 120)
        if not markers_first:
            time.sleep(2)
        second = setting.attempt(output, "--take-over").start()
        third = setting.attempt(output, "--take-over").start()
        for process in (first, second, third):
            process.join(240)
            assert process.exitcode in (0, 1)
        code = setting.attempt(output).run()
        assert code == 0
        assert expected.compare(output)[0] == []
