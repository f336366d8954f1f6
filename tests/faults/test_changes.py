"""A run continued with other settings: refused by name, started anew, or kept for what is done."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.results.status import read_status
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


def test_overwrite_leaves_files_of_other_origin(label: Label, begun: tuple[Path, Path]) -> None:
    source, output = begun
    theirs = {name: output / name for name in ("labels/0000.txt", "errors/notes.md", "images/0000.jpg", "draft.tmp")}
    for name, path in theirs.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    label(source, output, overwrite=True)
    assert labelled(output) == [True] * IMAGES
    assert {name: path.read_text() for name, path in theirs.items()} == {name: name for name in theirs}


def test_an_image_added_to_the_folder_is_refused_then_labelled_once(label: Label, tmp_path: Path) -> None:
    tars = write_tars(tmp_path / "in", 8, 8)
    source, output = tmp_path / "folder", tmp_path / "out"
    with tarfile.open(next(tars.glob("*.tar"))) as archive:
        archive.extractall(source, filter="data")
    names = sorted(source.iterdir())
    added = names[0].read_bytes()
    names[0].unlink()
    label(source, output, shard_size=3)
    names[0].write_bytes(added)
    before = rows(output, "labels")
    with pytest.raises(UsageError, match="the input has changed since the output was made: 3 finished shards are cut"):
        label(source, output, shard_size=3)
    assert rows(output, "labels") == before
    result = label(source, output, shard_size=3, incremental=True)
    assert sorted(row["uri"] for row in rows(output, "labels")) == [str(path) for path in names]
    status = read_status(str(output))
    assert (status.shards, status.shards_done, status.images) == (3, 3, len(names)) == (3, 3, result.summary["images"])
