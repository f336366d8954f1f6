"""Images that kill, hang or bloat the worker of a model become errors; the rest is labelled, at a bounded cost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.attempts import Attempt
from tests.faults.kill_matrix import rows
from tests.faults.poison import KINDS, write_poisoned
from tests.faults.tiny_model import CLASSES

MEMORY_BYTES = 2**30


def attempt(source: Path, output: Path, stage: str, batch_timeout_s: float) -> Attempt:
    arguments = ["label", str(source), str(output), "--classes", ",".join(CLASSES), "--cpus", "2", "--gpus", "0"]
    arguments += ["--max-failed", "0.2", "--object-store-bytes", str(150 * 2**20)]
    arguments += ["--batch-timeout-s", str(batch_timeout_s), "--worker-memory-bytes", str(MEMORY_BYTES)]
    return Attempt(arguments=arguments, log=output.with_suffix(".log"), model=f"tests.faults.poison:{stage}")


def check(output: Path, images: int, poison: list[str]) -> None:
    labels, errors = rows(output, "labels"), rows(output, "errors")
    assert len({row["image_id"] for row in labels}) == len(labels) == images
    assert all(row["image_id"].startswith("good") for row in labels)
    found = sorted((row["image_id"].partition("-")[0], row["error_class"]) for row in errors)
    assert found == sorted((kind, KINDS[kind]) for kind in poison)


def test_the_worst_images_are_quarantined(tmp_path: Path) -> None:
    poison = ["segfault", "hang", "memory"]
    source = write_poisoned(tmp_path / "in", 200, 50, poison)
    run = attempt(source, tmp_path / "out", "PoisonedStage", batch_timeout_s=2)
    assert run.run(timeout_s=240) == 0, run.log.read_text()
    check(tmp_path / "out", 200, poison)


@pytest.mark.slow
def test_poison_costs_less_than_the_run_itself(tmp_path: Path) -> None:
    images, seconds = 3000, []
    for poison in ([], list(KINDS)):
        name = "poisoned" if poison else "clean"
        source = write_poisoned(tmp_path / f"in-{name}", images, 100, poison)
        run = attempt(source, tmp_path / name, "SlowPoisonedStage", batch_timeout_s=5)
        started_at = time.monotonic()
        assert run.run(timeout_s=400) == 0, run.log.read_text()
        seconds.append(time.monotonic() - started_at)
        check(tmp_path / name, images, poison)
    ratio = seconds[1] / seconds[0]
    print(f"\nundisturbed {seconds[0]:.0f} s, with {', '.join(KINDS)}: {seconds[1]:.0f} s, {ratio:.2f} times as long")
    assert ratio < 2
