"""A killed run continues where it stopped: every image exactly once, finished shards untouched."""

from __future__ import annotations

import os
import re
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.end_to_end.conftest import command_here, read_rows, summary
from tests.faults.attempts import Attempt, kill_leftovers, kill_tree, wait_for_markers
from tests.faults.held import IMAGES, MODEL, SHARDS
from tests.faults.images import write_tars

CLASSES = "dark,dim,light,bright"
LONGEST_S = 240.0
"""Bound of every wait, all of which take a few seconds on a quiet machine."""

pytestmark = pytest.mark.usefixtures("tiny_model", "local_ray")  # for the second attempt, which is in this process


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tars(tmp_path_factory.mktemp("many") / "in", IMAGES, IMAGES // SHARDS)


def start_and_wait_for_markers(source: Path, output: Path, markers: int) -> BaseProcess:
    """Start the command in a process of its own, with a Ray of its own, on a model that cannot reach the end."""
    words = ["label", str(source), str(output), "--classes", CLASSES, "--cpus", "2", "--gpus", "0"]
    process = Attempt(arguments=words, log=output.with_suffix(".log"), model=MODEL).start()
    assert wait_for_markers(output, markers, process, LONGEST_S), "ended before it could be stopped"
    return process


def assert_whole(output: Path) -> None:
    ids = [row["image_id"] for row in read_rows(output)]
    assert len(ids) == IMAGES
    assert len(set(ids)) == IMAGES
    assert not list(output.glob("errors/*"))
    assert summary(output)["images"] == IMAGES
    assert not (output / "_staging").exists()


def test_killed_half_way(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = start_and_wait_for_markers(many, output, SHARDS // 4)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    kill_leftovers(process.pid)
    done = {path: path.stat().st_mtime_ns for path in output.glob("stats/*.json")}
    assert 0 < len(done) < SHARDS
    labels = {
        path: path.stat().st_mtime_ns
        for path in output.glob("labels/*")
        if output / "stats" / f"{path.stem}.json" in done
    }
    again = command_here("label", many, output, "--classes", CLASSES)
    assert again.returncode == 0, again.stderr
    # Commits that were under way in workers may still have finished after the driver was gone.
    todo = re.search(rf"(\d+) of {SHARDS} shards to do", again.stderr)
    assert todo is not None
    assert 0 < int(todo[1]) <= SHARDS - len(done)
    assert_whole(output)
    for path, time_ns in {**done, **labels}.items():
        assert path.stat().st_mtime_ns == time_ns


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(many: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    output = tmp_path / "out"
    process = start_and_wait_for_markers(many, output, 2)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(LONGEST_S)
    ended = process.exitcode
    kill_tree(process.pid)
    assert ended == code
    assert not (output / "_lease.json").exists()
    assert 2 <= len(list(output.glob("stats/*.json"))) < SHARDS
    assert command_here("label", many, output, "--classes", CLASSES).returncode == 0
    assert_whole(output)
