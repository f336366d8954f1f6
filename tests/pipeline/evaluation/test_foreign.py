"""Predictions of other programs give the figures that the same labels give as a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskmill.pipeline.evaluation.evaluate import Evaluation
from maskmill.pipeline.evaluation.protocol import EvaluationError
from tests.pipeline.evaluation.handmade import Run, blobs, encode, wide, write_folder

Evaluated = Callable[..., Evaluation]
NOT_FIGURES = ("fingerprint", "predictions", "reliability", "ece_segments", "ece_pixels", "counts")


def comparable(evaluation: Evaluation) -> dict[str, object]:
    return {key: value for key, value in evaluation.figures.items() if key not in NOT_FIGURES}


@pytest.fixture
def predictions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    maps = {f"{i:012d}": blobs(rng, 3) for i in range(5)}
    maps["000000000003"][:3] = 255  # unlabelled
    return maps


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    return write_folder(tmp_path / "gt", {f"{i:012d}": blobs(rng, 3) for i in range(5)})


@pytest.fixture
def expected(run: Run, predictions: dict[str, np.ndarray], truth: Path, evaluated: Evaluated) -> dict[str, object]:
    run.add("s", {name: wide(labels) for name, labels in predictions.items()})
    return comparable(evaluated(run.folder, truth))


def results_of(predictions: dict[str, np.ndarray], ids: tuple[int, ...] = (0, 1, 2)) -> list[dict[str, object]]:
    """Return results in the form of the release's sem_seg_predictions.json."""
    return [
        {
            "file_name": f"datasets/coco/val2017/{name}.jpg",
            "category_id": ids[class_id],
            "segmentation": {"size": list(labels.shape), "counts": encode(labels == class_id)},
        }
        for name, labels in predictions.items()
        for class_id in np.unique(labels).tolist()
        if class_id != 255
    ]


def write_results(path: Path, entries: object) -> Path:
    path.write_text(json.dumps(entries))
    return path


def test_a_results_file(
    predictions: dict[str, np.ndarray], truth: Path, expected: object, evaluated: Evaluated, tmp_path: Path
) -> None:
    path = write_results(tmp_path / "sem_seg_predictions.json", results_of(predictions))
    found = evaluated(path, truth, shard_size=2)
    assert comparable(found) == expected
    assert found.figures["ece_segments"] is None
    assert (tmp_path / "sem_seg_predictions-evaluation/evaluation.json").exists()


def test_a_results_file_with_raw_ids_by_image_number(
    predictions: dict[str, np.ndarray], truth: Path, expected: object, evaluated: Evaluated, tmp_path: Path
) -> None:
    entries = results_of(predictions, (10, 20, 30))
    for entry in entries:
        entry["image_id"] = int(Path(str(entry.pop("file_name"))).stem)
        entry["score"] = 0.5
    path = write_results(tmp_path / "results.json", entries)
    with pytest.raises(EvaluationError, match=r"has category 10, 20, 30, .*--prediction-ids raw"):
        evaluated(path, truth)
    found = evaluated(path, truth, prediction_ids="raw", shard_size=3)
    assert comparable(found) == expected
    assert found.figures["ece_segments"] is not None


def test_several_segments_of_a_class_mean_panoptic_quality(truth: Path, evaluated: Evaluated, tmp_path: Path) -> None:
    masks = [np.zeros((20, 24), bool), np.zeros((20, 24), bool)]
    masks[0][:5, :5] = masks[1][10:15, 10:15] = True
    entries = [
        {"image_id": i, "category_id": 1, "segmentation": {"size": [20, 24], "counts": encode(mask)}}
        for i in range(5)
        for mask in masks
    ]
    assert evaluated(write_results(tmp_path / "r.json", entries), truth).figures["pq"] is not None


@pytest.mark.parametrize("bits", [8, 16])
def test_a_folder_of_label_maps(
    bits: int,
    predictions: dict[str, np.ndarray],
    truth: Path,
    expected: object,
    evaluated: Evaluated,
    tmp_path: Path,
) -> None:
    maps = predictions
    if bits == 16:
        maps = {name: wide(labels) for name, labels in predictions.items()}
    folder = write_folder(tmp_path / "maps", maps)
    assert comparable(evaluated(folder, truth, shard_size=2)) == expected
    assert comparable(evaluated(folder, truth, shard_size=2)) == expected, "results are not taken for predictions"
    assert (tmp_path / "maps-evaluation/evaluation.json").exists()


def test_a_label_map_with_ids_out_of_range(
    predictions: dict[str, np.ndarray], truth: Path, evaluated: Evaluated, tmp_path: Path
) -> None:
    predictions["000000000002"][4, 4] = 77
    folder = write_folder(tmp_path / "maps", predictions)
    with pytest.raises(EvaluationError, match=r"prediction '000000000002.png' holds 77, .*--prediction-ids raw"):
        evaluated(folder, truth)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "no valid JSON"),
        ("[]", "holds no result"),
        ('{"figures": 1}', "no COCO file"),
        ('[{"category_id": 0}]', r"\[0\].segmentation is missing"),
        ('[{"category_id": 0, "segmentation": {"size": [2, 2], "counts": [4]}}]', "neither 'file_name' nor 'image_id'"),
        ('[{"image_id": 1, "category_id": 0, "segmentation": {"size": [2], "counts": "4"}}]', r"\[height, width\]"),
        (
            '[{"image_id": 1, "category_id": 0, "segmentation": {"size": [2, 2], "counts": [5]}}]',
            "covers 5 pixels of 2x2",
        ),
    ],
)
def test_files_of_another_kind(content: str, message: str, truth: Path, evaluated: Evaluated, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(EvaluationError, match=message):
        evaluated(path, truth)
