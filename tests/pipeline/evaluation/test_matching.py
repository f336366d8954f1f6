"""Matches predictions with ground truth where ids repeat, names differ, or numbers replace names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskmill.pipeline.evaluation.evaluate import Evaluation
from maskmill.pipeline.evaluation.protocol import EvaluationError
from tests.pipeline.evaluation.handmade import (
    Run,
    blobs,
    encode,
    label_row,
    panoptic_json,
    segments_of,
    wide,
    write_folder,
    write_tar,
)

Evaluated = Callable[..., Evaluation]


@pytest.fixture
def maps() -> list[np.ndarray]:
    """Four different maps."""
    return [blobs(np.random.default_rng(seed), 3) for seed in range(4)]


def row(image_id: str, labels: np.ndarray, uri: str) -> dict[str, Any]:
    """Return a labels row with a perfect prediction."""
    class_ids, rles = segments_of(wide(labels))
    return {**label_row(image_id, labels.shape, class_ids, rles, [0.5] * len(rles)), "uri": uri}


def coco_file(path: Path, images: list[dict[str, Any]], maps: dict[int, np.ndarray]) -> Path:
    """Write COCO annotations of ``maps`` by image id; the categories are the classes."""
    annotations = [
        {
            "image_id": image_id,
            "category_id": int(value),
            "segmentation": {"size": list(labels.shape), "counts": encode(labels == value)},
        }
        for image_id, labels in maps.items()
        for value in np.unique(labels)
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def test_keys_repeated_across_tars_meet_by_their_tar(
    run: Run, maps: list[np.ndarray], evaluated: Evaluated, tmp_path: Path
) -> None:
    for number, name in enumerate(("a", "b")):
        pair = {"0": maps[2 * number], "x/1": maps[2 * number + 1]}
        write_tar(tmp_path / f"gt/{name}.tar", pair)
        run.add_rows(name, [row(key, labels, f"/photos/{name}.tar#{key}.jpg") for key, labels in pair.items()])
    found = evaluated(run.folder, tmp_path / "gt").figures
    assert (found["miou"], found["counts"]["images"], found["counts"]["images_ambiguous"]) == (100, 4, 0)


def test_images_that_differ_in_their_ending_meet_by_file_name(
    run: Run, maps: list[np.ndarray], evaluated: Evaluated, tmp_path: Path
) -> None:
    run.add_rows("s", [row("a", maps[0], "/photos/a.jpg"), row("a", maps[1], "/photos/a.png")])
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.jpg"}]
    path = coco_file(tmp_path / "gt.json", images, {1: maps[1], 2: maps[0]})
    assert evaluated(run.folder, path).figures["miou"] == 100
    folder = write_folder(tmp_path / "gt", {"a": maps[0]})
    with pytest.raises(EvaluationError, match=r"match several predictions, .* 'a'"):
        evaluated(run.folder, folder)


def test_results_of_two_images_of_one_name_stay_apart(
    maps: list[np.ndarray], evaluated: Evaluated, tmp_path: Path
) -> None:
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.jpg"}]
    truth = coco_file(tmp_path / "gt.json", images, {1: maps[1], 2: maps[0]})
    results = json.loads(truth.read_text())["annotations"]
    for entry in results:
        entry["file_name"] = {1: "photos/a.png", 2: "photos/a.jpg"}[entry.pop("image_id")]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert evaluated(tmp_path / "results.json", truth).figures["miou"] == 100


@pytest.mark.parametrize("ids", [[7, 8], ["seven", "eight"]])
def test_results_by_image_id_meet_ground_truth_that_has_ids_and_names(
    ids: list[Any], maps: list[np.ndarray], evaluated: Evaluated, tmp_path: Path
) -> None:
    # Each file name is the number of the other image, so only matching by the ids is right.
    images = [{"id": ids[0], "file_name": "000000000008.jpg"}, {"id": ids[1], "file_name": "000000000007.jpg"}]
    truth = coco_file(tmp_path / "gt.json", images, {ids[0]: maps[0], ids[1]: maps[1]})
    results = json.loads(truth.read_text())["annotations"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert evaluated(tmp_path / "results.json", truth).figures["miou"] == 100


def test_panoptic_ground_truth_by_id_and_by_the_name_of_the_photograph(
    run: Run, maps: list[np.ndarray], evaluated: Evaluated, tmp_path: Path
) -> None:
    path = panoptic_json(tmp_path, {"a_panoptic": maps[0], "b_panoptic": maps[1]})
    data = json.loads(path.read_text())
    for number, annotation in enumerate(data["annotations"]):
        annotation["image_id"] = number + 5
    data["images"] = [{"id": 5, "file_name": "a_photo.jpg"}, {"id": 6, "file_name": "b_photo.jpg"}]
    path.write_text(json.dumps(data))
    run.add("s", {"a_photo": wide(maps[0]), "b_photo": wide(maps[1])})
    assert evaluated(run.folder, path).figures["miou"] == 100
    coco_file(tmp_path / "results.json", [], {5: maps[0], 6: maps[1]})
    results = json.loads((tmp_path / "results.json").read_text())["annotations"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert evaluated(tmp_path / "results.json", path).figures["miou"] == 100


@pytest.mark.parametrize("kind", ["run", "maps"])
def test_suffixes_are_taken_off_either_side_or_both(
    kind: str, run: Run, maps: list[np.ndarray], evaluated: Evaluated, tmp_path: Path
) -> None:
    def output(suffix: str) -> Path:
        named = {f"{number}{suffix}": labels for number, labels in enumerate(maps)}
        if kind == "maps":
            return write_folder(tmp_path / f"predicted{suffix}", named)
        folder = tmp_path / f"output{suffix}"
        if not folder.exists():
            Run(folder, json.loads((run.folder / "classes.json").read_text())["classes"]).add("s", named)
        return folder

    truth = write_folder(tmp_path / "gt", {f"{number}_gt": labels for number, labels in enumerate(maps)})
    plain = write_folder(tmp_path / "plain", {f"{number}": labels for number, labels in enumerate(maps)})
    with pytest.raises(EvaluationError, match="no prediction has ground truth"):
        evaluated(output("_photo"), truth)
    for folder, ground_truth, settings in (
        (output("_photo"), plain, {"prediction_suffix": "_photo"}),
        (output(""), truth, {"ground_truth_suffix": "_gt"}),
        (output("_photo"), truth, {"prediction_suffix": "_photo", "ground_truth_suffix": "_gt"}),
    ):
        assert evaluated(folder, ground_truth, **settings).figures["miou"] == 100


@pytest.mark.parametrize("form", ["panoptic", "manifest"])
def test_a_missing_file_of_ground_truth_is_counted_and_named_where_that_is_allowed(
    form: str, run: Run, maps: list[np.ndarray], evaluated: Evaluated, tmp_path: Path
) -> None:
    named = {"a": maps[0], "b": maps[1], "c": maps[2]}
    run.add("s", {name: wide(labels) for name, labels in named.items()})
    if form == "panoptic":
        truth, gone = panoptic_json(tmp_path, named), tmp_path / "panoptic/b.png"
    else:
        gone = write_folder(tmp_path / "gt", named) / "b.png"
        truth = tmp_path / "gt.txt"
        truth.write_text("gt/a.png\ngt/b.png\ngt/c.png\n")
    data = gone.read_bytes()
    gone.unlink()
    with pytest.raises(EvaluationError, match=r"b\.png"):
        evaluated(run.folder, truth)
    found = evaluated(run.folder, truth, allow_missing=True).figures
    assert (found["miou"], found["counts"]["images"], found["counts"]["ground_truth_files_missing"]) == (100, 2, 1)
    assert found["counts"]["images_without_ground_truth"] == 1
    warnings = [text for text in found["warnings"] if "1 files of ground truth are listed but not there" in text]
    assert "b.png" in warnings[0]
    if form == "panoptic":
        gone.write_bytes(data)
        assert evaluated(run.folder, truth).figures["counts"]["images"] == 3
