"""The same images give the same labels, however they are stored and however the work is cut up."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import use_tiny_model
from tests.end_to_end.conftest import IMAGES, SHARD_SIZE, Label, by_image, read_rows, run_here

EXACT = ("width", "height", "class_ids", "class_names", "areas", "boxes", "rles", "coverage")
# Each image goes through the network by itself, so nothing depends on its neighbours: measured difference 0.
SCORES = ("scores", "stability", "agreement", "objectness", "margin")


@pytest.fixture(scope="module")
def tiny_reference(
    local_ray: None, shapes: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """The rows of ``shapes`` by image, as the tiny model labels them."""
    output = tmp_path_factory.mktemp("tiny-reference")
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_model(patch)
        run_here(shapes, shapes / "wds", output)
    rows = by_image(read_rows(output))
    assert len(rows) == IMAGES
    assert sum(len(row["class_ids"]) for row in rows.values()) > IMAGES
    return rows


def assert_same(rows: list[dict[str, Any]], reference: dict[str, dict[str, Any]]) -> None:
    found = by_image(rows)
    assert sorted(found) == sorted(reference)
    for name, row in found.items():
        for column in EXACT:
            assert row[column] == reference[name][column], (name, column)
        for column in SCORES:
            assert row[column] == pytest.approx(reference[name][column], abs=1e-6), (name, column)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"propose_actors": 1, "propose_batch_size": 8, "encode_batch_size": 3},
        {"propose_actors": 2, "propose_batch_size": 1},
    ],
)
def test_batches_and_actors_change_no_label(
    label: Label, shapes: Path, reference: dict[str, Any], tmp_path: Path, settings: dict[str, Any]
) -> None:
    label(shapes / "wds", tmp_path / "out", **settings)
    assert_same(read_rows(tmp_path / "out"), reference)


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize(
    ("source", "settings"),
    [
        ("wds/{00000..00004}.tar", {"propose_batch_size": 1}),
        ("wds/*.tar", {"propose_batch_size": 8, "encode_batch_size": 3}),
        ("parquet", {"propose_batch_size": 8}),
        ("folder", {"shard_size": SHARD_SIZE, "propose_actors": 2}),
        ("folder", {"shard_size": 33}),
    ],
)
def test_local_formats(
    label: Label, shapes: Path, tiny_reference: dict[str, Any], tmp_path: Path, source: str, settings: dict[str, Any]
) -> None:
    label(shapes / source, tmp_path / "out", **settings)
    assert_same(read_rows(tmp_path / "out"), tiny_reference)


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize("form", ["wds", "parquet", "folder"])
def test_from_and_to_s3_over_http(
    label: Label, shapes: Path, tiny_reference: dict[str, Any], tmp_path: Path, s3_bucket: Any, form: str
) -> None:
    s3_bucket.upload(shapes / form, f"in/{form}")
    label(f"{s3_bucket.uri}/in/{form}", f"{s3_bucket.uri}/out/{form}", storage_option=s3_bucket.storage_options)
    s3_bucket.download(f"out/{form}", tmp_path)
    assert_same(read_rows(tmp_path), tiny_reference)


@pytest.mark.usefixtures("tiny_model")
def test_finished_work_is_left_alone(label: Label, shapes: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = label(shapes / "wds", output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    again = label(shapes / "wds", output)
    assert again.summary == first.summary
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("tiny_model")
def test_new_shards_are_added_to_a_finished_run(label: Label, shapes: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    tars = sorted((shapes / "wds").glob("*.tar"))
    for tar in tars[:3]:
        shutil.copy(tar, source)
    label(source, output)
    before = {path: path.stat().st_mtime_ns for path in (output / "labels").iterdir()}
    for tar in tars[3:]:
        shutil.copy(tar, source)
    result = label(source, output)
    assert result.summary["images"] == IMAGES
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
