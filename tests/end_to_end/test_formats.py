"""The same images give the same labels, however they are stored and however the work is cut up."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.segments import decode_segment_map
from tests.end_to_end.conftest import IMAGES, SHARD_SIZE, Label, by_image, read_rows

EXACT = ("width", "height", "class_ids", "class_names", "areas", "boxes", "rles", "coverage")
# Each image goes through the network by itself, so nothing depends on its neighbours: measured difference 0.
SCORES = ("scores", "stability", "agreement", "objectness", "margin")


@pytest.fixture(scope="module")
def reference(local_ray: None, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    from pipeline.config import LabelConfig
    from pipeline.plan import plan_run
    from pipeline.run import run_plan

    output = tmp_path_factory.mktemp("reference")
    classes = str(shapes / "wds" / "classes.json")
    config = LabelConfig(input=str(shapes / "wds"), output=str(output), classes=classes, propose_gpus=0)
    run_plan(plan_run(config), lambda progress: None)
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


@pytest.mark.parametrize(
    ("source", "settings"),
    [
        ("wds", {"propose_actors": 2, "propose_batch_size": 1}),
        ("wds", {"propose_actors": 1, "propose_batch_size": 8, "encode_batch_size": 3}),
        ("wds/{00000..00004}.tar", {}),
        pytest.param("wds/*.tar", {}, marks=pytest.mark.slow),
        ("parquet", {"propose_batch_size": 8}),
        ("folder", {"shard_size": SHARD_SIZE, "propose_actors": 2}),
        pytest.param("folder", {"shard_size": 33}, marks=pytest.mark.slow),
    ],
)
def test_local_formats_and_batches(
    label: Label, shapes: Path, reference: dict[str, Any], tmp_path: Path, source: str, settings: dict[str, Any]
) -> None:
    label(shapes / source, tmp_path / "out", **settings)
    assert_same(read_rows(tmp_path / "out"), reference)


@pytest.mark.parametrize("form", ["wds", "parquet", pytest.param("folder", marks=pytest.mark.slow)])
def test_from_and_to_s3_over_http(
    label: Label, shapes: Path, reference: dict[str, Any], tmp_path: Path, s3_bucket: Any, form: str
) -> None:
    s3_bucket.upload(shapes / form, f"in/{form}")
    label(f"{s3_bucket.uri}/in/{form}", f"{s3_bucket.uri}/out/{form}", storage_option=s3_bucket.storage_options)
    s3_bucket.download(f"out/{form}", tmp_path)
    assert_same(read_rows(tmp_path), reference)


def test_split_pools_agree_with_the_fused_one(
    label: Label, shapes: Path, reference: dict[str, Any], tmp_path: Path
) -> None:
    """Between split pools mask logits travel as float16, which moves a few border pixels (0.004 % of them here)."""
    label(shapes / "wds", tmp_path / "out", fuse="off", classify_actors=1, classify_gpus=0)
    found = by_image(read_rows(tmp_path / "out"))
    assert sorted(found) == sorted(reference)
    same = [np.mean(label_map(row) == label_map(reference[name])) for name, row in found.items()]
    assert np.mean(same) >= 0.999


def label_map(row: dict[str, Any]) -> np.ndarray:
    return decode_segment_map(row["rles"], row["height"], row["width"], row["class_ids"], fill=65535)


def test_finished_work_is_left_alone(label: Label, shapes: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = label(shapes / "wds", output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    again = label(shapes / "wds", output)
    assert again.summary == first.summary
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == before


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
