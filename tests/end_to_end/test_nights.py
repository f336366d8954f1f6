"""A bucket that grows from night to night: each run labels what is new, whatever became of the run before."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from maskmill.pipeline.shapes.write import ShapesSettings, write_shapes
from tests.conftest import Bucket
from tests.end_to_end.conftest import MASKMILL, command, command_here
from tests.faults.attempts import kill_leftovers

SHARD_IMAGES = 5
NIGHTS = (4, 16, 3)
"""Tars that come on each night; the second night's are enough to be killed among."""


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("nights")
    images = sum(NIGHTS) * SHARD_IMAGES
    write_shapes(str(root), ShapesSettings(images=images, seed=5, file_format="wds", shard_size=SHARD_IMAGES))
    return sorted(root.glob("*.tar"))


def arrive(bucket: Bucket, tars: Sequence[Path]) -> None:
    for tar in tars:
        bucket.put(f"in/{tar.name}", tar.read_bytes())


def nightly(bucket: Bucket, tars: list[Path], *more: str) -> list[str]:
    classes = str(tars[0].parent / "classes.json")
    places = (f"{bucket.uri}/in/*.tar", f"{bucket.uri}/out")
    return ["label", *places, "--classes", classes, "--incremental", "--cpus", "2", *more]


def committed_at(bucket: Bucket) -> dict[str, float]:
    """When each tar of the input was committed, by its name."""
    markers = [json.loads(bucket.get(key)) for key in bucket.keys("out/stats/")]
    return {Path(marker["shard"]["uri"]).name: marker["committed_at"] for marker in markers}


def history(bucket: Bucket) -> list[dict[str, Any]]:
    shown = command_here("history", f"{bucket.uri}/out", "--json")
    assert shown.returncode == 0, shown.stderr
    return [json.loads(line) for line in shown.stdout.splitlines()]


def run_and_kill_after(bucket: Bucket, arguments: list[str], commits: int) -> None:
    before = len(bucket.keys("out/stats/"))
    process = subprocess.Popen(
        [*MASKMILL, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 600
    while len(bucket.keys("out/stats/")) < before + commits:
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kill_leftovers(process.pid)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_nights_the_second_killed(s3_bucket: Bucket, tars: list[Path]) -> None:
    first, second = tars[: NIGHTS[0]], tars[NIGHTS[0] : NIGHTS[0] + NIGHTS[1]]
    third = tars[NIGHTS[0] + NIGHTS[1] :]

    arrive(s3_bucket, first)
    ended = command(*nightly(s3_bucket, tars))
    assert ended.returncode == 0, ended.stderr
    night_1 = committed_at(s3_bucket)
    assert set(night_1) == {tar.name for tar in first}

    arrive(s3_bucket, second)
    # Small batches of encoding, so that one shard after another is committed.
    run_and_kill_after(s3_bucket, nightly(s3_bucket, tars, "--encode-batch-size", str(SHARD_IMAGES)), commits=2)
    night_2 = committed_at(s3_bucket)
    assert {name: at for name, at in night_2.items() if name in night_1} == night_1
    left = {tar.name for tar in second} - set(night_2)
    assert left, "the killed night had finished"

    arrive(s3_bucket, third)
    s3_bucket.put(f"in/{first[0].name}", tars[-1].read_bytes())  # another content under an old name
    s3_bucket.client.delete_object(Bucket=s3_bucket.name, Key=f"in/{first[1].name}")
    ended = command(*nightly(s3_bucket, tars))
    assert ended.returncode == 0, ended.stderr
    # Commits in flight may have ended after their driver was killed; what had a marker then is not labelled again.
    assert "1 changed, 1 vanished" in ended.stderr
    night_3 = committed_at(s3_bucket)
    touched = {name for name, at in night_3.items() if night_2.get(name) != at}
    assert touched == left | {tar.name for tar in third} | {first[0].name}

    attempts = history(s3_bucket)
    assert [attempt["outcome"] for attempt in attempts] == ["complete", "killed", "complete"]
    assert [attempt["shards_new"] for attempt in attempts[:2]] == [NIGHTS[0], NIGHTS[1]]
    assert attempts[2]["shards_changed"] == 1
    assert len(attempts[2]["vanished"]) == 1
    assert attempts[2]["shards_done"] == attempts[2]["shards_new"] + 1
    summary = json.loads(s3_bucket.get("out/summary.json"))
    assert summary["images"] == sum(NIGHTS) * SHARD_IMAGES
    assert summary["attempt_images"] == attempts[2]["images"] == attempts[2]["shards_done"] * SHARD_IMAGES


@pytest.mark.usefixtures("tiny_model", "local_ray")
def test_a_night_without_news(s3_bucket: Bucket, tars: list[Path]) -> None:
    # The workers of a Ray that runs already do not have this process's environment.
    options = [word for pair in s3_bucket.storage_options.items() for word in ("--storage-option", "=".join(pair))]
    arrive(s3_bucket, tars[:2])
    ended = command_here(*nightly(s3_bucket, tars, *options, "--price-per-gpu-hour", "1.5"))
    assert ended.returncode == 0, ended.stderr
    before = {key: s3_bucket.get(key) for key in s3_bucket.keys("out/")}
    assert command_here(*nightly(s3_bucket, tars, *options)).returncode == 0
    quiet = command_here(*nightly(s3_bucket, tars, *options, "--if-nothing-new", "exit-code"))
    assert quiet.returncode == 4, quiet.stderr
    assert "nothing new" in quiet.stderr
    after = {key: s3_bucket.get(key) for key in s3_bucket.keys("out/")}
    assert {key for key in after if before.get(key) != after[key]} == {key for key in after if "/runs/" in key} - set(
        before
    )
    attempts = history(s3_bucket)
    assert [attempt["outcome"] for attempt in attempts] == ["complete", "nothing_new", "nothing_new"]
    cost = attempts[0]["cost"]
    assert cost["bytes_read"] == sum(tar.stat().st_size for tar in tars[:2])
    written = [key for key in before if key.split("/")[1] in ("labels", "errors", "stats")]
    assert cost["bytes_written"] == sum(len(before[key]) for key in written)
    assert 0 < cost["cpu_hours"] <= 2 * attempts[0]["seconds"] / 3600
    assert (cost["gpu_hours"], cost["price"]) == (0, 0)
