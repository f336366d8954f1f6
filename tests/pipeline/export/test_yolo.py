"""YOLO exports follow the format's rules, and their polygons have the areas of the masks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from skimage.draw import polygon2mask

from maskmill.pipeline.masks.outlines import ring_area
from tests.pipeline.export.conftest import Export
from tests.pipeline.masks.decoded import decode_segment_map
from tests.pipeline.written_run import read_labels


def read_polygons(path: Path) -> list[tuple[int, np.ndarray]]:
    """Parse lines of "class x y x y ..." with coordinates in 0..1."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(int(line[0]), np.array(line[1:], float).reshape(-1, 2)) for line in lines]


@pytest.mark.parametrize("instances", [False, True])
def test_polygons_have_the_areas_and_pixels_of_the_masks(
    run: Path, query_run: Path, export: Export, instances: bool
) -> None:
    out = query_run if instances else run
    folder = export(out, "yolo")
    with (folder / "index.csv").open(newline="") as stream:
        index = {line["image_id"]: line["file"] for line in csv.DictReader(stream)}
    for row in read_labels(out):
        size = np.array([row["width"], row["height"]])
        lines = read_polygons(folder / index[row["image_id"]])
        areas = dict.fromkeys(row["class_ids"], 0.0)
        painted = np.full((row["height"], row["width"]), 255)
        for class_id, points in lines:
            assert len(points) >= 3
            assert points.min() >= 0
            assert points.max() <= 1
            areas[class_id] += ring_area(points * size)
            painted[polygon2mask(painted.shape, (points * size)[:, ::-1] - 0.5)] = class_id
        assert areas == pytest.approx(dict(zip(row["class_ids"], row["areas"], strict=True)), abs=0.01)
        expected = decode_segment_map(row["rles"], row["height"], row["width"], row["class_ids"], 255)
        assert np.array_equal(painted, expected)
        if instances:
            assert len(lines) == len(row["areas"]), "an object is one line, whatever its parts"


def test_images_lie_where_readers_look_for_them(run: Path, export: Export) -> None:
    folder = export(run, "yolo")
    document = yaml.safe_load((folder / "data.yaml").read_text())
    assert document["names"][0] == "red circle"
    assert len(document["names"]) == 56
    labels = sorted((folder / "labels").rglob("*.txt"))
    images = sorted((folder / document["train"]).rglob("*.jpg"))
    # Readers replace "images" by "labels" and the extension by .txt.
    assert [Path(str(path).replace("/images/", "/labels/")).with_suffix(".txt") for path in images] == labels
    with Image.open(images[0]) as picture:
        assert picture.size == (128, 128)
