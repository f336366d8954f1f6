"""Whole evaluations through the file system; the units are counted in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from maskmill.pipeline.evaluation.evaluate import Evaluation
from maskmill.pipeline.evaluation.unit import IMAGES_SCHEMA
from maskmill.pipeline.evaluation.write import CONFUSION_SCHEMA, PER_CLASS_SCHEMA
from tests.pipeline.evaluation.handmade import THREE, Run, encode, label_row, write_folder

Evaluated = Callable[..., Evaluation]


def read_results(folder: Path) -> dict[str, object]:
    return json.loads((folder / "evaluation" / "evaluation.json").read_text())


@pytest.fixture
def small(run: Run, tmp_path: Path) -> tuple[Run, Path]:
    """Two images of 2 x 4 pixels whose figures are computed by hand. Classes: sky and cat (seen), dog (unseen)."""
    run.add("s1", {"a": np.array([[0, 0, 1, 1], [0, 0, 1, 65535]], np.uint16)}, scores=0.8)
    run.add("s2", {"b": np.array([[2, 2, 2, 0], [2, 2, 0, 0]], np.uint16)}, scores=0.6)
    truth = {
        "a": np.array([[0, 0, 1, 1], [0, 1, 1, 1]], np.uint8),
        "b": np.array([[2, 2, 0, 0], [2, 2, 0, 255]], np.uint8),
    }
    return run, write_folder(tmp_path / "gt", truth)


def test_figures_by_hand(small: tuple[Run, Path], evaluated: Evaluated) -> None:
    run, truth = small
    evaluated(run.folder, truth)
    found = read_results(run.folder)
    # a: sky 3 of 4 named, cat 3 of 5 found, one unlabelled. b: dog 4 of 5 named, sky 2 of 3 found, one pixel ignored.
    iou = {"sky": 5 / 7, "cat": 3 / 5, "dog": 4 / 5}
    expected = {
        "miou": sum(iou.values()) / 3,
        "miou_seen": (iou["sky"] + iou["cat"]) / 2,
        "miou_unseen": iou["dog"],
        "miou_pets": iou["dog"],
        "fwiou": (6 * iou["sky"] + 5 * iou["cat"] + 4 * iou["dog"]) / 15,
        "pixel_accuracy": 12 / 15,
        "mean_accuracy": (5 / 6 + 3 / 5 + 4 / 4) / 3,
        "image_miou": ((3 / 4 + 3 / 5) / 2 + (2 / 3 + 4 / 5) / 2) / 2,
        "image_pixel_accuracy": (6 / 8 + 6 / 7) / 2,
        "recall_50": 1.0,
        "recall_75": 2 / 4,
        "mean_best_iou": (3 / 4 + 3 / 5 + 2 / 3 + 4 / 5) / 4,
    }
    seen, unseen = expected["miou_seen"], expected["miou_unseen"]
    expected["miou_harmonic"] = 2 * seen * unseen / (seen + unseen)
    for name, value in expected.items():
        assert found[name] == pytest.approx(100 * value, abs=1e-7), name  # sums of shares are kept to 2^-32
    # Every segment has the class of most of its pixels, so no other naming is better.
    assert found["oracle_miou"] == found["miou"]
    assert found["lost_to_naming"] == 0
    # Four segments, all right: |0.8 - 1| twice, |0.6 - 1| twice; scores are kept to 2^-20.
    assert found["ece_segments"] == pytest.approx(30, abs=1e-4)
    assert found["pq"] is None
    assert found["counts"]["images"] == 2
    assert found["counts"]["pixels_compared"] == 15
    assert found["counts"]["pixels_ignored"] == 1
    assert found["counts"]["pixels_unlabelled"] == 1
    assert found["counts"]["segments"] == 4
    assert found["protocol"]["name"] == "three"
    assert any("absent from ground truth but" in text for text in found["conventions"])


def test_tables(small: tuple[Run, Path], evaluated: Evaluated) -> None:
    run, truth = small
    evaluated(run.folder, truth)
    results = run.folder / "evaluation"
    per_class = pq.read_table(results / "per_class.parquet")
    assert per_class.schema.equals(PER_CLASS_SCHEMA)
    assert per_class["class_name"].to_pylist() == ["sky", "cat", "dog"]
    assert per_class["iou"].to_pylist() == pytest.approx([500 / 7, 60, 80])
    assert per_class["gt_pixels"].to_pylist() == [6, 5, 4]
    assert per_class["pq"].to_pylist() == [None] * 3
    confusion = pq.read_table(results / "confusion.parquet")
    assert confusion.schema.equals(CONFUSION_SCHEMA)
    cells = [(r["gt_class_name"], r["pred_class_name"], r["pixels"]) for r in confusion.to_pylist()]
    assert cells == [
        ("sky", "sky", 5),
        ("dog", "dog", 4),
        ("cat", "cat", 3),
        ("sky", "dog", 1),
        ("cat", "sky", 1),
        ("cat", None, 1),
    ]
    images = pq.read_table(results / "images")
    assert images.schema.equals(IMAGES_SCHEMA)
    assert images["miou"].to_pylist() == pytest.approx([(3 / 4 + 3 / 5) / 2, (2 / 3 + 4 / 5) / 2])
    assert images["class_ids"].to_pylist() == [[0, 1], [0, 2]]
    assert images["intersections"].to_pylist() == [[3, 3], [2, 4]]


def test_markdown(small: tuple[Run, Path], evaluated: Evaluated) -> None:
    run, truth = small
    evaluated(run.folder, truth)
    text = (run.folder / "evaluation" / "summary.md").read_text()
    assert "| mIoU | 70.48 |" in text
    assert "| mIoU, pets | 80.00 |" in text
    assert "| sky | dog | 16.67 | 1 |" in text
    assert "PQ" not in text


def test_an_image_without_a_compared_pixel_changes_nothing(run: Run, tmp_path: Path, evaluated: Evaluated) -> None:
    labels = np.zeros((3, 3), np.uint8)
    run.add("s", {"a": labels, "b": labels})
    truth = write_folder(tmp_path / "gt", {"a": np.eye(3, dtype=np.uint8), "b": np.full((3, 3), 255, np.uint8)})
    found = evaluated(run.folder, truth).figures
    assert found["image_pixel_accuracy"] == pytest.approx(100 * 6 / 9)
    assert found["counts"]["images"] == 2
    assert found["counts"]["images_compared"] == 1


def test_nothing_but_ignored_pixels_gives_null_not_nan(run: Run, tmp_path: Path, evaluated: Evaluated) -> None:
    run.add("s", {"a": np.zeros((3, 3), np.uint8)})
    truth = write_folder(tmp_path / "gt", {"a": np.full((3, 3), 255, np.uint8)})
    evaluated(run.folder, truth)
    found = read_results(run.folder)
    assert {found[name] for name in ("miou", "miou_harmonic", "pixel_accuracy", "boundary_f", "recall_50")} == {None}


def test_panoptic_quality_of_query_segments(tmp_path: Path, evaluated: Evaluated) -> None:
    run = Run(tmp_path / "run", THREE["classes"], segments="query")
    truth = np.zeros((6, 12), np.uint8)
    truth[1:5, 1:4] = 1  # one cat
    truth[1:5, 7:11] = 1  # another
    masks = [np.zeros(truth.shape, bool) for _ in range(4)]
    masks[0][1:5, 1:4] = True  # the first cat exactly
    masks[1][1:5, 7:10] = True  # three quarters of the second
    masks[2][:, 6:] = truth[:, 6:] == 0  # the sky in two pieces
    masks[3][:, :6] = truth[:, :6] == 0
    row = label_row("a", truth.shape, [1, 1, 0, 0], [encode(mask) for mask in masks], [0.9, 0.9, 0.9, 0.9])
    run.add_rows("s", [row])
    found = evaluated(run.folder, write_folder(tmp_path / "gt", {"a": truth})).figures
    assert found["pq_things"] == pytest.approx(100 * (1 + 3 / 4) / 2)
    assert found["pq_stuff"] == pytest.approx(100)
    assert found["rq"] == 100
    assert found["pq"] == pytest.approx((found["pq_things"] + found["pq_stuff"]) / 2)
    assert found["recall_75"] == pytest.approx(100 * 2 / 3)  # the sky is one true segment, written as two
    assert any("8-connected" in text for text in found["conventions"])


def test_panoptic_quality_can_be_asked_for_and_refused(small: tuple[Run, Path], evaluated: Evaluated) -> None:
    run, truth = small
    assert evaluated(run.folder, truth, panoptic="on").figures["pq"] is not None
    assert evaluated(run.folder, truth, panoptic="off").figures["pq"] is None


def test_distractors_are_unlabelled(tmp_path: Path, evaluated: Evaluated) -> None:
    classes = [{"name": "other", "distractor": True}, *THREE["classes"]]
    run = Run(tmp_path / "run", classes)
    labels = np.array([[0, 1, 1, 2]], np.uint8)
    run.add("s", {"a": labels})
    found = evaluated(run.folder, write_folder(tmp_path / "gt", {"a": np.array([[0, 0, 0, 1]], np.uint8)})).figures
    assert found["counts"]["pixels_unlabelled"] == 1
    assert found["counts"]["segments"] == 2
    assert found["pixel_accuracy"] == 75


def test_seen_flags_that_differ_are_a_warning(tmp_path: Path, evaluated: Evaluated) -> None:
    classes = [{**entry, "seen": True} for entry in THREE["classes"]]
    run = Run(tmp_path / "run", classes)
    run.add("s", {"a": np.zeros((2, 2), np.uint8)})
    found = evaluated(run.folder, write_folder(tmp_path / "gt", {"a": np.zeros((2, 2), np.uint8)})).figures
    assert ["'dog'" in text for text in found["warnings"]] == [True]


@pytest.mark.parametrize(
    ("proposer", "warned"), [({"proposer": "hf:tue-mps/eomt"}, True), ({"proposer": "zegformer"}, False), ({}, False)]
)
def test_a_proposer_that_may_know_the_unseen_classes_is_a_warning(
    tmp_path: Path, evaluated: Evaluated, proposer: dict[str, str], warned: bool
) -> None:
    run = Run(tmp_path / "run", THREE["classes"])
    record = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps({**record, "fingerprint": proposer}))
    run.add("s", {"a": np.zeros((2, 2), np.uint8)})
    found = evaluated(run.folder, write_folder(tmp_path / "gt", {"a": np.zeros((2, 2), np.uint8)})).figures
    assert any("'hf:tue-mps/eomt'" in text and "not zero-shot" in text for text in found["warnings"]) == warned
