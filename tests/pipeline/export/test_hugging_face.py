"""``datasets`` opens the folder with images, label maps and class names, and with the areas of the labels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from maskmill.pipeline.export import hugging_face
from tests.pipeline.export.conftest import Export
from tests.pipeline.labelled_files import encoded, label_files
from tests.pipeline.masks.decoded import decode_segment_map
from tests.pipeline.written_run import SHAPES_CLASSES, read_labels

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_datasets_reads_images_label_maps_and_class_names(run: Path, export: Export, tmp_path: Path) -> None:
    folder = export(run, "hf", images_per_file=10)
    assert len(list((folder / "data").glob("train-*.parquet"))) == 4
    data = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    rows = read_labels(run)
    assert len(data) == len(rows)
    names = data.features["class_ids"].feature
    assert isinstance(names, datasets.ClassLabel)
    assert names.names == [entry["name"] for entry in SHAPES_CLASSES]
    for sample, row in zip(data, rows, strict=True):
        assert sample["image"].size == (row["width"], row["height"])
        label_map = np.asarray(sample["label_map"])
        expected = decode_segment_map(row["rles"], row["height"], row["width"], row["class_ids"], 255)
        assert np.array_equal(label_map, expected)
        assert [int((label_map == class_id).sum()) for class_id in sample["class_ids"]] == row["areas"]
        assert [names.int2str(class_id) for class_id in sample["class_ids"]] == row["class_names"]
        assert sample["boxes"] == row["boxes"]


def test_without_images_the_column_is_null(run: Path, export: Export, tmp_path: Path) -> None:
    folder = export(run, "hf", images=False)
    data = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert data[0]["image"] is None
    assert data[0]["image_id"] == read_labels(run)[0]["image_id"]


def test_files_and_row_groups_are_bounded_by_bytes(
    run: Path, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hugging_face, "MOST_GROUP_BYTES", 20_000)
    monkeypatch.setattr(hugging_face, "MOST_FILE_BYTES", 60_000)
    folder = export(run, "hf")
    files = sorted((folder / "data").iterdir())
    assert [path.name for path in files] == [f"train-{number:05d}.parquet" for number in range(len(files))]
    assert len(files) > 1
    assert all(path.stat().st_size < 140_000 for path in files)
    groups = [
        pq.read_metadata(path).row_group(at) for path in files for at in range(pq.read_metadata(path).num_row_groups)
    ]
    assert max(group.total_byte_size for group in groups) < 40_000
    data = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert data["image_id"][:] == [row["image_id"] for row in read_labels(run)]


MEASURED = """
import sys
from maskmill.pipeline.bench.result import peak_bytes
from maskmill.pipeline.export.export import ExportSettings, export_run
result = export_run(sys.argv[1], sys.argv[2], ExportSettings(file_format="hf"))
print(result.images, peak_bytes() // 2**20)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_more_than_2_gib_of_large_images_are_written_in_little_memory_and_read_whole(tmp_path: Path) -> None:
    count, side = 64, 3520
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), compress_level=0)
    assert len(data) * count > 2 * 2**30
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "00.png").write_bytes(data)
    for number in range(1, count):
        os.link(tmp_path / "in" / "00.png", tmp_path / "in" / f"{number:02d}.png")
    out = label_files(str(tmp_path / "in"), tmp_path / "out")
    command = [sys.executable, "-c", MEASURED, str(out), str(tmp_path / "hf")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    images, megabytes = map(int, result.stdout.split())
    print(f"{images} images of {len(data) / 1e6:.0f} MB, {megabytes} MB at most")
    assert images == count
    assert megabytes < 1800, f"{megabytes} MB"
    for path in (tmp_path / "hf" / "data").iterdir():
        assert pq.read_table(path).num_rows == pq.ParquetFile(path).read().num_rows > 0
    samples = datasets.load_dataset(str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(samples) == count
    assert samples[count - 1]["image"].size == (side, side)
    undecoded = samples.cast_column("image", datasets.Image(decode=False))
    assert all(len(sample["image"]["bytes"]) == len(data) for sample in undecoded)
