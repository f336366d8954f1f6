"""A run continued with other settings: refused by name, started anew, or kept for what is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from tests.faults.conftest import Label
from tests.faults.images import write_tars
from tests.faults.kill_matrix import rows

IMAGES, SHARD = 30, 10
EVERYTHING = 10_000
"""As the least area of a segment it leaves every image without one."""


@pytest.fixture
def begun(label: Label, tmp_path: Path) -> tuple[Path, Path]:
    """Input of three shards, and an output in which the first of them is labelled."""
    source = write_tars(tmp_path / "in", IMAGES, SHARD)
    label(source, tmp_path / "out", limit=1)
    assert len(rows(tmp_path / "out", "labels")) == SHARD
    return source, tmp_path / "out"


def labelled(output: Path) -> list[bool]:
    """For each image in order, whether it has any segment."""
    return [bool(row["areas"]) for row in rows(output, "labels")]


def record(output: Path) -> dict[str, object]:
    return json.loads((output / "run.json").read_text())


def test_by_default_it_is_refused_and_says_what_changed(label: Label, begun: tuple[Path, Path]) -> None:
    source, output = begun
    before = record(output)
    with pytest.raises(UsageError, match=r"min_area, min_score changed"):
        label(source, output, min_area=EVERYTHING, min_score=0.5)
    assert record(output) == before
    assert len(labelled(output)) == SHARD


def test_keep_labels_only_the_rest_with_the_new_settings(label: Label, begun: tuple[Path, Path]) -> None:
    source, output = begun
    before = record(output)
    label(source, output, min_area=EVERYTHING, on_change="keep")
    assert labelled(output) == [True] * SHARD + [False] * (IMAGES - SHARD)
    assert record(output)["run_id"] == before["run_id"]
    assert [earlier["fingerprint"] for earlier in record(output)["earlier"]] == [before["fingerprint"]]


@pytest.mark.parametrize("settings", [{"on_change": "restart"}, {"overwrite": True}])
def test_restart_and_overwrite_begin_anew(label: Label, begun: tuple[Path, Path], settings: dict[str, object]) -> None:
    source, output = begun
    before = record(output)
    label(source, output, min_area=EVERYTHING, **settings)
    assert labelled(output) == [False] * IMAGES
    assert record(output)["run_id"] != before["run_id"]
    assert record(output)["earlier"] == []


def test_overwrite_begins_anew_also_when_nothing_changed(label: Label, begun: tuple[Path, Path]) -> None:
    source, output = begun
    before = record(output)
    label(source, output, overwrite=True)
    assert labelled(output) == [True] * IMAGES
    assert record(output)["run_id"] != before["run_id"]
