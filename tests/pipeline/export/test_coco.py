"""COCO exports are read by pycocotools, by the panoptic format's rules and by our own evaluation, with equal areas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.evaluate import evaluate, evaluate_here
from tests.pipeline.export.conftest import Export
from tests.pipeline.written_run import read_labels


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
    document = json.loads((folder / "panoptic.json").read_text())
    things = {entry["id"]: entry["isthing"] for entry in document["categories"]}
    assert set(things.values()) == {int(instances)}
    images = {image["id"]: image for image in document["images"]}
    assert len(document["annotations"]) == len(images) == len(rows)
    by_id = areas_of(rows)
    for annotation in document["annotations"]:
        ids = segment_ids(folder / "panoptic" / annotation["file_name"])
        image = images[annotation["image_id"]]
        assert ids.shape == (image["height"], image["width"])
        segments = annotation["segments_info"]
        # The format's rule: the ids of the PNG, 0 (void) apart, are those of segments_info.
        assert set(np.unique(ids)) - {0} == {segment["id"] for segment in segments}
        for segment in segments:
            assert (ids == segment["id"]).sum() == segment["area"]
            assert _box(ids == segment["id"]) == segment["bbox"]
            assert segment["iscrowd"] == 0
        areas = {segment["category_id"] - 1: segment["area"] for segment in segments}
        assert areas == by_id[image["image_id"]]


def segment_ids(path: Path) -> np.ndarray:
    """As panopticapi's rgb2id."""
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
