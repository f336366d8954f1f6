"""``maskmill retry`` from end to end: only failed images are labelled again, and their shards rewritten as one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from maskmill.jobs.retry import RetryConfig, stored_config
from maskmill.pipeline.run.execute import run_plan
from maskmill.pipeline.run.plan import plan_retry
from maskmill.pipeline.run.summary import RunResult
from tests.faults.conftest import Label
from tests.faults.images import write_tars
from tests.faults.kill_matrix import rows

IMAGES = 60
SHARD = 20
DAMAGED_EVERY = 15


@pytest.fixture
def damaged(label: Label, tmp_path: Path) -> Path:
    """A finished run whose input had damaged images in each of three tars, and has whole ones now in two of them."""
    source = write_tars(tmp_path / "in", IMAGES, SHARD, DAMAGED_EVERY)
    assert label(source, tmp_path / "out").summary["failed"] == IMAGES // DAMAGED_EVERY
    whole = write_tars(tmp_path / "whole", IMAGES, SHARD)
    for name in ("0000.tar", "0001.tar"):
        shutil.copy(whole / name, source / name)
    return tmp_path / "out"


def retry(output: Path, **settings: Any) -> RunResult:
    config = RetryConfig(output=str(output), **settings)
    wanted = config.errors.get("stage"), config.errors.get("error_class")
    return run_plan(plan_retry(stored_config(config), *wanted), lambda progress: None)


def numbers(output: Path, kind: str) -> list[int]:
    return [int(row["image_id"]) for row in rows(output, kind)]


def changed(output: Path, before: dict[Path, int]) -> set[str]:
    return {path.relative_to(output).as_posix() for path, time in before.items() if path.stat().st_mtime_ns != time}


def test_repaired_images_are_labelled_and_the_rest_is_tried_again(damaged: Path) -> None:
    assert numbers(damaged, "errors") == [14, 29, 44, 59]
    labels = {int(row["image_id"]): row for row in rows(damaged, "labels")}
    result = retry(damaged)
    assert (result.summary["labelled"], result.summary["failed"]) == (IMAGES - 2, 2)
    assert numbers(damaged, "labels") == [number for number in range(IMAGES) if number not in (44, 59)]
    assert [(int(row["image_id"]), row["attempts"]) for row in rows(damaged, "errors")] == [(44, 2), (59, 2)]
    now = {int(row["image_id"]): row for row in rows(damaged, "labels")}
    assert all(now[number] == row for number, row in labels.items())
    assert not (damaged / "_staging").exists()


def test_shards_without_a_chosen_error_are_not_touched(damaged: Path) -> None:
    before = {
        path: path.stat().st_mtime_ns for kind in ("labels", "errors", "stats") for path in damaged.glob(f"{kind}/*")
    }
    retry(damaged, errors={"stage": "propose"})
    retry(damaged, errors={"error_class": "no such"})
    assert changed(damaged, before) == set()


@pytest.mark.parametrize("cut_at", ["labels", pytest.param("errors", marks=pytest.mark.slow)])
def test_a_retry_that_was_killed_is_finished_by_the_next(damaged: Path, label: Label, cut_at: str) -> None:
    # What a kill leaves between the steps of a commit: no marker, and some of the files new.
    (shard,) = [path.stem for path in damaged.glob("stats/0001-*.json")]
    (damaged / "stats" / f"{shard}.json").unlink()
    if cut_at == "errors":
        (damaged / "errors" / f"{shard}.parquet").unlink()
    result = retry(damaged)
    assert (result.summary["images"], result.summary["failed"]) == (IMAGES, 2)
    assert numbers(damaged, "labels") == [number for number in range(IMAGES) if number not in (44, 59)]
