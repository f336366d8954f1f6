"""Thousands of bad and odd inputs: each image is in labels or in errors, never in both, never in neither."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import bad_inputs
from tests.faults.bad_inputs import HOPELESS, WHOLE, Container
from tests.faults.conftest import Label
from tests.faults.kill_matrix import rows

SEED = 5


def check(output: Path, containers: list[Container]) -> Counter[str]:
    """Hold the output against what the containers must give; returns how often each error class occurred."""
    labels, errors = rows(output, "labels"), rows(output, "errors")
    by_file: dict[str, list[tuple[int, str, str]]] = {}
    for kind, found in (("labels", labels), ("errors", errors)):
        for row in found:
            name = row["uri"].partition("#")[0].rpartition("/")[2] if len(containers) > 1 else ""
            by_file.setdefault(name, []).append((row["row"], row["image_id"], kind))
    for container in containers:
        own = sorted(by_file.pop(container.name, []))
        if container.damaged:
            number, _, kind = own.pop()
            assert (number, kind) == (len(container.rows), "errors"), container.name
        assert [number for number, _, _ in own] == list(range(len(container.rows))), container.name
        assert [image_id for _, image_id, _ in own] == container.rows, container.name
        labelled = {image_id for _, image_id, kind in own if kind == "labels"}
        failed = {image_id for _, image_id, kind in own if kind == "errors"}
        assert container.whole <= labelled, container.whole & failed
        assert not {each for each in labelled if each.startswith(HOPELESS)}, container.name
    assert not by_file
    assert all(row["stage"] and row["error_class"] and row["error_message"] for row in errors)
    return Counter(f"{row['stage']}/{row['error_class']}" for row in errors)


def sources(folder: Path, count: int) -> dict[str, list[Container]]:
    """The same images in tars, in Parquet and as files, in equal parts."""
    found = list(bad_inputs.images(count, SEED).items())
    tarred, tabled, filed = (dict(found[start::3]) for start in range(3))
    return {
        "tars": bad_inputs.tars(folder / "tars", tarred, SEED),
        "parquets": bad_inputs.parquets(folder / "parquets", tabled, SEED),
        "files": bad_inputs.folder_of(folder / "files", filed),
    }


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [240, pytest.param(3000, marks=pytest.mark.slow)])
def test_each_image_is_in_labels_or_in_errors(label: Label, tmp_path: Path, count: int) -> None:
    for name, containers in sources(tmp_path, count).items():
        started_at = time.monotonic()
        source = tmp_path / name / ("" if name == "files" else "*.tar" if name == "tars" else "*.parquet")
        result = label(source, tmp_path / "out" / name, batch_timeout_s=20)
        classes = check(tmp_path / "out" / name, containers)
        images = sum(len(container.rows) + container.damaged for container in containers)
        assert result.summary["images"] == images
        assert result.summary["failed"] == sum(classes.values())
        assert sum(any(WHOLE in each for each in container.rows) for container in containers)
        seconds = time.monotonic() - started_at
        print(f"\n{name}: {images} rows, {result.summary['labelled']} labelled, {seconds:.0f} s, {dict(classes)}")
    assert not Path("/tmp/absolute-whole.jpg").exists()
    assert not list(tmp_path.parent.rglob("escaped-whole*"))
