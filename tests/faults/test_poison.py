"""Images that kill, hang or bloat the worker of a model become errors; the rest is labelled, at a bounded cost."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.attempts import TINY, Attempt
from tests.faults.kill_matrix import Place, rows
from tests.faults.poison import GOOD_BEFORE_HARM, KINDS, write_poisoned
from tests.faults.tiny_model import CLASSES

MEMORY_BYTES = 2**30


def attempt(source: Path, output: Path, stage: str, batch_timeout_s: float, place: Place) -> Attempt:
    arguments = ["label", str(source), str(output), "--classes", ",".join(CLASSES), "--cpus", "2", "--gpus", "0"]
    arguments += ["--max-failed", "0.2", "--object-store-bytes", str(150 * 2**20)]
    arguments += ["--batch-timeout-s", str(batch_timeout_s), "--worker-memory-bytes", str(MEMORY_BYTES)]
    return Attempt(
        arguments=[*arguments, *place.arguments], log=output.with_suffix(".log"), model=f"tests.faults.poison:{stage}"
    )


def check(output: Path, images: int, poison: list[str]) -> None:
    labels, errors = rows(output, "labels"), rows(output, "errors")
    assert len({row["image_id"] for row in labels}) == len(labels) == images
    assert all(row["image_id"].startswith("good") for row in labels)
    found = sorted((row["image_id"].partition("-")[0], row["error_class"]) for row in errors)
    assert found == sorted((kind, KINDS[kind]) for kind in poison)


@pytest.mark.slow
def test_the_worst_images_are_quarantined(tmp_path: Path, place: Place) -> None:
    poison = ["segfault", "hang", "memory"]
    source = write_poisoned(tmp_path / "in", 200, 50, poison)
    run = attempt(source, tmp_path / "out", "PoisonedStage", 2, place)
    assert run.run() == 0, run.log.read_text()
    check(tmp_path / "out", 200, poison)


@pytest.mark.slow
def test_archives_that_kill_their_reader_are_an_error_each(tmp_path: Path, place: Place) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for kind in ("good", "hang", "memory", "segfault"):
        write_poisoned(tmp_path / kind, 20, 20, [])
        (tmp_path / kind / "0000.tar").rename(source / f"{kind}-0.tar")
    run = attempt(source, tmp_path / "out", "TinyStage", 2, place)
    run = replace(run, model=TINY, reader="tests.faults.poison:PoisonedReadStage")
    assert run.run(timeout_s=240) == 0, run.log.read_text()
    labels, errors = rows(tmp_path / "out", "labels"), rows(tmp_path / "out", "errors")
    assert len(labels) == 20 + 3 * GOOD_BEFORE_HARM
    assert {row["error_class"] for row in errors} == {"damaged_shard"}
    messages = {row["image_id"].partition("-")[0]: row["error_message"] for row in errors}
    assert sorted(messages) == ["hang", "memory", "segfault"]
    assert "reading on ran past 2 s twice (after 3 images)" in messages["hang"]
    assert "reading on takes more memory than a worker may have (after 3 images)" in messages["memory"]
    assert "reading on killed its worker 2 times (after 3 images)" in messages["segfault"]


@pytest.mark.slow
def test_a_pipeline_that_stands_still_is_ended_with_a_diagnosis(tmp_path: Path, place: Place) -> None:
    source = write_poisoned(tmp_path / "in", 40, 20, [])
    run = attempt(source, tmp_path / "out", "StuckStage", 4, place)
    # Long enough for a busy machine to start a worker and to build the graph, which must not take as long either.
    run = replace(run, arguments=[*run.arguments, "--stall-timeout-s", "20"])
    assert run.run() == 1
    log = run.log.read_text()
    assert "error: no row for 20 s. Stages working on" in log
    assert re.search(r"stages: read, decode: .*; StuckStage: .* actors alive, \d starting; encode: ", log)
    assert "free resources" in log
    assert "Traceback" not in log


@pytest.mark.slow
@pytest.mark.marathon
@pytest.mark.timeout(1800)
def test_poison_costs_less_than_the_run_itself(tmp_path: Path) -> None:
    images, seconds = 3000, []
    for poison in ([], list(KINDS)):
        name = "poisoned" if poison else "clean"
        source = write_poisoned(tmp_path / f"in-{name}", images, 100, poison)
        run = attempt(source, tmp_path / name, "SlowPoisonedStage", 5, Place())
        started_at = time.monotonic()
        assert run.run(timeout_s=1200) == 0, run.log.read_text()
        seconds.append(time.monotonic() - started_at)
        check(tmp_path / name, images, poison)
    ratio = seconds[1] / seconds[0]
    print(f"\nundisturbed {seconds[0]:.0f} s, with {', '.join(KINDS)}: {seconds[1]:.0f} s, {ratio:.2f} times as long")
    assert ratio < 2
