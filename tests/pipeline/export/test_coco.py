"""COCO exports are read by pycocotools, the panoptic format's rules and ``maskmill evaluate``, with equal areas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from maskmill.pipeline.evaluation.config import EvaluationConfig
from maskmill.pipeline.evaluation.evaluate import evaluate
from maskmill.pipeline.shapes.world import CLASSES
from tests.pipeline.evaluation.here import evaluate_here
from tests.pipeline.export.conftest import Export
from tests.pipeline.written_run import RunSettings, read_labels, write_run


def areas_of(rows: list[dict[str, Any]]) -> dict[str, dict[int, int]]:
    return {row["image_id"]: dict(zip(row["class_ids"], row["areas"], strict=True)) for row in rows}


def test_pycocotools_reads_every_mask(run: Path, export: Export) -> None:
    rows = read_labels(run)
    coco = COCO(export(run, "coco") / "stuff.json")
    assert len(coco.imgs) == len(rows)
    found: dict[str, dict[int, int]] = {row["image_id"]: {} for row in rows}
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        image = coco.imgs[annotation["image_id"]]
        assert mask.shape == (image["height"], image["width"])
        assert mask.sum() == annotation["area"]
        assert _box(mask) == annotation["bbox"]
        found[image["image_id"]][annotation["category_id"] - 1] = int(mask.sum())
    assert found == areas_of(rows)
    names = {row_name for row in rows for row_name in row["class_names"]}
    ids = coco.getCatIds(catNms=sorted(names))
    assert {coco.cats[number]["name"] for number in ids} == names


def _box(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]


def test_instances_have_a_file_of_their_own_name(query_run: Path, export: Export) -> None:
    coco = COCO(export(query_run, "coco") / "instances.json")
    segments = sum(len(row["areas"]) for row in read_labels(query_run))
    assert len(coco.anns) == segments
    assert all(0 <= annotation["score"] <= 1 for annotation in coco.anns.values())


def test_parts_are_whole_files_with_ids_of_their_own(run: Path, export: Export) -> None:
    folder = export(run, "coco", images_per_file=10)
    parts = [COCO(path) for path in sorted(folder.glob("stuff-*.json"))]
    assert [len(part.imgs) for part in parts] == [10, 10, 10, 4]
    for kind in ("imgs", "anns"):
        ids = [number for part in parts for number in getattr(part, kind)]
        assert len(ids) == len(set(ids))
    assert sum(len(part.anns) for part in parts) == sum(len(row["areas"]) for row in read_labels(run))


def test_images_go_along_when_asked_for(run: Path, export: Export) -> None:
    folder = export(run, "coco", images=True)
    for image in COCO(folder / "stuff.json").imgs.values():
        with Image.open(folder / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])


@pytest.mark.parametrize("instances", [False, True])
def test_panoptic_pngs_hold_the_segments_listed(run: Path, query_run: Path, export: Export, instances: bool) -> None:
    rows = read_labels(query_run if instances else run)
    folder = export(query_run if instances else run, "panoptic")
    annotations = follow_the_panoptic_rules(folder)
    document = json.loads((folder / "panoptic.json").read_text())
    assert {entry["isthing"] for entry in document["categories"]} == {int(instances)}
    images = {image["id"]: image for image in document["images"]}
    assert len(annotations) == len(rows)
    by_id = areas_of(rows)
    for annotation in annotations:
        areas = {segment["category_id"] - 1: segment["area"] for segment in annotation["segments_info"]}
        assert areas == by_id[images[annotation["image_id"]]["image_id"]]


def follow_the_panoptic_rules(folder: Path) -> list[dict[str, Any]]:
    """Check what panopticapi's evaluation and the format's description require, and return the annotations.

    panopticapi (cocodataset/panopticapi, evaluation.py) raises for an id of the PNG that the JSON lacks and the other
    way round, and for categories that are not listed. In the format ids are unique, and a stuff class is one segment.
    """
    document = json.loads((folder / "panoptic.json").read_text())
    is_thing = {entry["id"]: entry["isthing"] for entry in document["categories"]}
    assert set(is_thing.values()) <= {0, 1}
    images = {image["id"]: image for image in document["images"]}
    assert [annotation["image_id"] for annotation in document["annotations"]] == list(images)
    for annotation in document["annotations"]:
        ids = segment_ids(folder / "panoptic" / annotation["file_name"])
        assert ids.shape == (images[annotation["image_id"]]["height"], images[annotation["image_id"]]["width"])
        segments = annotation["segments_info"]
        listed = [segment["id"] for segment in segments]
        assert len(set(listed)) == len(listed)
        assert set(np.unique(ids)) - {0} == set(listed)
        assert 0 not in listed
        for segment in segments:
            assert segment["category_id"] in is_thing
            assert segment["area"] == (ids == segment["id"]).sum()
            assert segment["bbox"] == _box(ids == segment["id"])
            assert segment["iscrowd"] == 0
        stuff = [segment["category_id"] for segment in segments if not is_thing[segment["category_id"]]]
        assert len(set(stuff)) == len(stuff)
    return document["annotations"]


def test_segments_of_one_class_of_stuff_are_one_in_panoptic_files(tmp_path: Path, export: Export) -> None:
    classes = [
        {"name": entry.name, "thing": {"thing": True, "stuff": False}[entry.kind] if number % 5 else None}
        for number, entry in enumerate(CLASSES)
    ]
    out = write_run(tmp_path, RunSettings(images=12, classes=classes, segments="query", halves=True))
    folder = export(out, "panoptic")
    annotations = follow_the_panoptic_rules(folder)
    is_thing = {
        entry["id"] - 1: entry["isthing"] for entry in json.loads((folder / "panoptic.json").read_text())["categories"]
    }
    assert is_thing == {number: int(entry["thing"] is not False) for number, entry in enumerate(classes)}
    rows = read_labels(out)
    joined = 0
    for row, annotation in zip(rows, annotations, strict=True):
        kept = [class_id for class_id in row["class_ids"] if is_thing[class_id]]
        stuff = {class_id for class_id in row["class_ids"] if not is_thing[class_id]}
        found = [segment["category_id"] - 1 for segment in annotation["segments_info"]]
        assert sorted(found) == sorted([*kept, *stuff])
        joined += len(row["class_ids"]) - len(found)
        assert sum(segment["area"] for segment in annotation["segments_info"]) == sum(row["areas"])
    assert joined > 0


def test_all_classes_are_stuff_where_a_segment_is_all_of_a_class(tmp_path: Path, export: Export) -> None:
    classes = [{"name": entry.name, "thing": entry.kind == "thing"} for entry in CLASSES]
    folder = export(write_run(tmp_path, RunSettings(images=4, classes=classes)), "panoptic")
    assert follow_the_panoptic_rules(folder)
    document = json.loads((folder / "panoptic.json").read_text())
    assert not any(entry["isthing"] for entry in document["categories"])


def segment_ids(path: Path) -> np.ndarray:
    """Return the ids of a PNG, computed as panopticapi's rgb2id does."""
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        colour = np.asarray(picture).astype(np.int64)
    return colour[..., 0] + 256 * colour[..., 1] + 256 * 256 * colour[..., 2]


def test_a_results_file_evaluates_like_the_run(run: Path, export: Export) -> None:
    truth = f"{run.parent}/images/*.tar"
    results = export(run, "coco-stuff") / "sem_seg_predictions.json"
    own, read_back = (
        evaluate(
            EvaluationConfig(output=str(output), ground_truth=truth, protocol="shapes", allow_missing=True),
            evaluate_here,
        ).figures
        for output in (run, results)
    )
    assert own["miou"] == read_back["miou"] > 50
    assert own["counts"]["pixels_compared"] == read_back["counts"]["pixels_compared"]


def test_an_empty_run_is_an_empty_results_file(blank_run: Path, export: Export) -> None:
    assert json.loads((export(blank_run, "coco-stuff") / "sem_seg_predictions.json").read_text()) == []
    assert COCO(export(blank_run, "coco") / "stuff.json").anns == {}
