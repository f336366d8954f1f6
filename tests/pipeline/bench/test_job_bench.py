"""The benchmarks of the whole job and of reading alone, on small real runs, whose figures must be consistent."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from maskmill.jobs.bench import app
from maskmill.pipeline.bench.job import _memory
from maskmill.pipeline.bench.processes import DRIVER, RAY, SAMPLE_S, ProcessMonitor
from maskmill.pipeline.errors import UsageError

IMAGES = 500


@pytest.mark.slow
@pytest.mark.usefixtures("no_ray")
def test_the_job_against_the_bare_model(tmp_path: Path) -> None:
    written = tmp_path / "job.json"
    arguments = ["pipeline", "--images", str(IMAGES), "--directory", str(tmp_path), "--json", str(written)]
    shown = CliRunner().invoke(app, [*arguments, "--set", "propose_batch_size=4"], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    result = json.loads(written.read_text())
    assert result["efficiency"] == pytest.approx(result["images_per_s"] / result["bare_images_per_s"])
    # One core is all that the job may use: what its stages took cannot be more than there was.
    spent = result["cpu_seconds_per_image"]
    assert 0 < spent["model"] < sum(spent.values()) < 1.5 / result["images_per_s"]
    assert list(result["queues"]) == ["read, decode", "SegmentStage", "encode"]
    assert all(own["mean_blocks"] <= own["most_blocks"] for own in result["queues"].values())
    bare = (result["bare_images_per_s_before"], result["bare_images_per_s_after"])
    assert min(bare) <= result["bare_images_per_s"] <= max(bare)
    grown = result["as_it_grows"]
    assert grown["images"][-1] == IMAGES
    assert len({len(own) for own in grown.values()}) == 1
    assert max(grown["memory_bytes"]) <= result["peak_bytes"]
    assert sum(grown["model_cpu_seconds_per_image"]) > 0 < sum(grown["other_cpu_seconds_per_image"])
    for heading in ("efficiency", "workers busy", "waiting for", "up to image"):
        assert heading in shown.output
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [f"shapes-{IMAGES}-0-1000"]


def test_settings_are_read_as_label_reads_them(tmp_path: Path) -> None:
    arguments = ["pipeline", "--directory", str(tmp_path), "--workers", "1000"]
    # Settings are looked at first: the last of these fails for its thousand workers.
    for settings, message in (
        (["fuse=maybe"], "fuse"),
        (["no-such-key=1"], "Valid keys"),
        (["fuse"], "KEY=VALUE"),
        (["fuse=off", "min-score=0.5"], "1000 workers need 1000 cores"),
    ):
        given = [argument for setting in settings for argument in ("--set", setting)]
        with pytest.raises(UsageError, match=message):
            CliRunner().invoke(app, [*arguments, *given, "--images", "100"], catch_exceptions=False)


def test_memory_of_a_part_without_a_sample_is_the_nearest() -> None:
    samples = [(0.5, 10), (0.9, 30), (4.4, 20), (9.0, 5)]
    assert _memory(range(9), samples) == [30, 30, 30, 20, 20, 20, 20, 5]


def test_cpu_seconds_between_moments_are_those_of_the_processes() -> None:
    with ProcessMonitor() as monitor:
        monitor.sample()
        started = time.monotonic()
        child = psutil.Popen([sys.executable, "-c", "while True: pass"])
        time.sleep(2 * SAMPLE_S)
        ended = time.monotonic()
        used = sum(child.cpu_times()[:2])
        monitor.sample()
        child.kill()
        child.wait()
    spent = monitor.cpu_seconds((started, (started + ended) / 2, ended))
    # The processes of a Ray that other tests left running below this one may be there as well.
    assert {DRIVER, RAY} <= spent.keys()
    halves = spent[RAY]  # whatever is neither a stage nor this process, so the child
    assert len(halves) == 2
    assert min(halves) > 0
    cores = os.cpu_count() or 1
    assert used - 0.1 <= sum(halves) <= cores * (ended - started) + 0.1


def test_reading_and_decoding_alone(tmp_path: Path) -> None:
    from maskmill.pipeline.shapes.write import ShapesSettings, write_shapes

    write_shapes(str(tmp_path / "in"), ShapesSettings(images=40, seed=3), {})
    written = tmp_path / "io.json"
    shown = CliRunner().invoke(app, ["io", str(tmp_path / "in"), "--json", str(written)], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    result = json.loads(written.read_text())
    assert result["settings"]["images"] == 40
    seconds = result["read_seconds_per_image"] + result["decode_seconds_per_image"]
    assert result["images_per_second"] == pytest.approx(1 / seconds)
    travelled = result["bytes_per_image"]
    side = result["settings"]["spec"]["short_side"]
    assert travelled["decode -> model"] == pytest.approx(3 * side**2, rel=0.05)
    assert travelled["read -> decode"] < travelled["decode -> model"] < travelled["propose -> classify (split pools)"]
