"""``datasets`` opens the folder with its features: images, label maps, class names; areas are those of the labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.segments import decode_segment_map
from tests.pipeline.export.conftest import Export
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
