"""A killed run continues where it stopped: every image exactly once, finished shards untouched."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.shapes.write import ShapesSettings, write_shapes
from tests.end_to_end.conftest import MASKMILL, command, read_rows, summary

IMAGES = 400
SHARDS = 20


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    write_shapes(str(root), ShapesSettings(images=IMAGES, seed=3, file_format="wds", shard_size=IMAGES // SHARDS))
    return root


def start_and_wait_for_markers(source: Path, output: Path, markers: int) -> subprocess.Popen[bytes]:
    arguments = [*MASKMILL, "label", source, output, "--classes", source / "classes.json", "--cpus", "2"]
    process = subprocess.Popen(
        list(map(str, arguments)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 180
    while len(list(output.glob("stats/*.json"))) < markers:
        assert process.poll() is None, "ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def assert_whole(output: Path) -> None:
    ids = [row["image_id"] for row in read_rows(output)]
    assert len(ids) == IMAGES
    assert len(set(ids)) == IMAGES
    assert not list(output.glob("errors/*"))
    assert summary(output)["images"] == IMAGES
    assert not (output / "_staging").exists()


def kill_leftovers(process: subprocess.Popen[bytes]) -> None:
    """End the local Ray of a killed driver, which dies of it by itself a little later."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def test_killed_half_way(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = start_and_wait_for_markers(many, output, SHARDS // 4)
    process.kill()
    process.wait()
    kill_leftovers(process)
    done = {path: path.stat().st_mtime_ns for path in output.glob("stats/*.json")}
    assert 0 < len(done) < SHARDS
    labels = {
        path: path.stat().st_mtime_ns
        for path in output.glob("labels/*")
        if output / "stats" / f"{path.stem}.json" in done
    }
    again = command("label", many, output, "--classes", many / "classes.json", "--cpus", "2")
    assert again.returncode == 0, again.stderr
    # Commits that were under way in workers may still have finished after the driver was gone.
    todo = re.search(rf"(\d+) of {SHARDS} shards to do", again.stderr)
    assert todo is not None
    assert 0 < int(todo[1]) <= SHARDS - len(done)
    assert_whole(output)
    for path, time_ns in {**done, **labels}.items():
        assert path.stat().st_mtime_ns == time_ns


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_interrupted(many: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    output = tmp_path / "out"
    process = start_and_wait_for_markers(many, output, 2)
    sent_at = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert time.monotonic() - sent_at < 40
    assert not (output / "_lease.json").exists()
    assert 2 <= len(list(output.glob("stats/*.json"))) < SHARDS
    assert command("label", many, output, "--classes", many / "classes.json", "--cpus", "2").returncode == 0
    assert_whole(output)
