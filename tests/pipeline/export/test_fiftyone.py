"""The FiftyOne folder follows the rules of FiftyOneDatasetImporter: files, documents, ids and packed masks.

FiftyOne itself needs a database server, so its importer is not run here.
"""

from __future__ import annotations

import base64
import io
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pipeline.export.conftest import Export
from tests.pipeline.written_run import read_labels


@pytest.fixture
def folder(run: Path, export: Export) -> Path:
    return export(run, "fiftyone")


@pytest.fixture
def samples(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "samples.json").read_text())["samples"]


def unpacked(mask: dict[str, Any]) -> np.ndarray:
    data = zlib.decompress(base64.b64decode(mask["$binary"]["base64"]))
    return np.load(io.BytesIO(data), allow_pickle=False)


def test_masks_and_label_maps_have_the_areas_of_the_labels(
    run: Path, folder: Path, samples: list[dict[str, Any]]
) -> None:
    targets = json.loads((folder / "metadata.json").read_text())["mask_targets"]["segmentation"]
    values = {name: int(value) for value, name in targets.items()}
    for row, sample in zip(read_labels(run), samples, strict=True):
        assert sample["image_id"] == row["image_id"]
        with Image.open(folder / sample["segmentation"]["mask_path"]) as picture:
            assert picture.mode == "L", "FiftyOne would read the colours of a palette as values"
            label_map = np.asarray(picture)
        assert (label_map == 0).sum() == label_map.size - sum(row["areas"])
        detections = sample["segments"]["detections"]
        assert [detection["label"] for detection in detections] == row["class_names"]
        for detection, area in zip(detections, row["areas"], strict=True):
            mask = unpacked(detection["mask"])
            assert mask.dtype == bool
            assert mask.sum() == detection["area"] == area == (label_map == values[detection["label"]]).sum()
            assert mask.shape == (
                round(detection["bounding_box"][3] * row["height"]),
                round(detection["bounding_box"][2] * row["width"]),
            )


def test_every_sample_has_its_image_and_an_id(folder: Path, samples: list[dict[str, Any]]) -> None:
    ids = [sample["_id"]["$oid"] for sample in samples]
    ids += [detection["_id"]["$oid"] for sample in samples for detection in sample["segments"]["detections"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{24}", number) for number in ids)
    for sample in samples:
        with Image.open(folder / sample["filepath"]) as picture:
            assert picture.size == (sample["metadata"]["width"], sample["metadata"]["height"])


def test_the_fields_of_a_sample_are_declared(folder: Path, samples: list[dict[str, Any]]) -> None:
    metadata = json.loads((folder / "metadata.json").read_text())
    declared = {field["db_field"] for field in metadata["sample_fields"]}
    assert set(samples[0]) <= declared
    assert all(field["ftype"].startswith("fiftyone.core.fields.") for field in metadata["sample_fields"])
    assert metadata["media_type"] == "image"
