"""Label maps hold class ids for every reader, in 8 bits where the number of classes allows it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pipeline.export.conftest import Export
from tests.pipeline.masks.decoded import decode_segment_map
from tests.pipeline.written_run import SHAPES_CLASSES, RunSettings, read_labels, write_run

MANY = [{"name": f"class {number}"} for number in range(1000)]


@pytest.mark.parametrize("classes", [56, 1000])
def test_values_are_class_ids(tmp_path: Path, export: Export, classes: int) -> None:
    class_ids = tuple(range(56)) if classes == 56 else tuple(range(7, 1000, 17))[:56]
    settings = RunSettings(images=12, classes=SHAPES_CLASSES if classes == 56 else MANY, class_ids=class_ids)
    run = write_run(tmp_path, settings)
    folder = export(run, "png")
    legend = json.loads((folder / "classes.json").read_text())
    assert legend["ignore_label"] == (255 if classes == 56 else 65535)
    with (folder / "index.csv").open(newline="") as stream:
        index = {line["image_id"]: line["file"] for line in csv.DictReader(stream)}
    rows = read_labels(run)
    assert len(index) == len(rows)
    for row in rows:
        with Image.open(folder / index[row["image_id"]]) as picture:
            assert picture.mode == ("P" if classes == 56 else "I;16")
            values = np.asarray(picture)
        fill = legend["ignore_label"]
        expected = decode_segment_map(row["rles"], row["height"], row["width"], row["class_ids"], fill)
        assert np.array_equal(values, expected)


def test_the_palette_shows_the_colours_of_the_classes(run: Path, export: Export) -> None:
    folder = export(run, "png")
    classes = json.loads((folder / "classes.json").read_text())["classes"]
    legend = {entry["value"]: tuple(entry["colour"]) for entry in classes}
    path = next((folder / "label_maps").rglob("*.png"))
    with Image.open(path) as picture:
        values, colours = np.asarray(picture), np.asarray(picture.convert("RGB"))
    for value in set(np.unique(values).tolist()) - {255}:
        assert tuple(colours[values == value][0].tolist()) == legend[value]
