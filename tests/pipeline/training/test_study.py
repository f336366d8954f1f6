"""The study: counting, figures with intervals, and a whole small study from training to table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskmill.model.vocabulary import Vocabulary
from maskmill.pipeline.evaluation.class_pixels import harmonic_mean
from maskmill.pipeline.training import pictures, study
from maskmill.pipeline.training.counts import RESAMPLES, figures, interval, pixel_counts, resample_weights
from maskmill.pipeline.training.methods import label_map
from tests.pipeline.training.tiny import tiny

GROUPS = {"seen": [0, 1], "unseen": [2, 3]}


def test_counts_and_figures_by_hand() -> None:
    label = np.array([[0, 0, 1, 2]])
    predicted = np.array([[0, 1, 1, 1]])
    counts = pixel_counts(label, predicted, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [2, 1, 1, 0], [1, 3, 0, 0]]
    own = figures(counts[None], np.ones((1, 1)), GROUPS)
    seen, unseen = 100 * (1 / 2 + 1 / 3) / 2, 0.0  # class 3 is on neither side and left out
    assert own["seen"][0] == pytest.approx(seen)
    assert own["unseen"][0] == unseen
    assert own["harmonic"][0] == harmonic_mean(seen, unseen)
    assert own["pixel_accuracy"][0] == 50


def test_intervals_are_those_of_the_images() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (50, 8, 8))
    wrong = rng.random(labels.shape) < rng.uniform(0, 0.6, 50)[:, None, None]
    predicted = np.where(wrong, (labels + 1) % 4, labels)
    counts = np.stack([pixel_counts(*pair, 4) for pair in zip(labels, predicted, strict=True)])
    weights = resample_weights(50)
    assert weights.shape == (RESAMPLES + 1, 50)
    assert (weights.sum(axis=1) == 50).all()
    whole = figures(counts, weights, GROUPS)
    value, low, high = interval(whole["seen"])
    assert low < value < high
    # From the spread over images the width is known: twice 1.96 standard errors, within a third.
    by_image = [figures(counts[i : i + 1], np.ones((1, 1)), GROUPS)["seen"][0] for i in range(50)]
    expected = 2 * 1.96 * np.std(by_image, ddof=1) / np.sqrt(50)
    assert high - low == pytest.approx(expected, rel=1 / 3)
    same = whole["seen"] - figures(counts, weights, GROUPS)["seen"]
    assert interval(same) == (0, 0, 0)  # the intervals are paired, so a method does not differ from itself


def test_calibration_moves_pixels_to_unseen_classes() -> None:
    scores = np.array([[[0.5, 0.9]], [[0.4, 0.1]]])
    seen = np.array([True, False])
    assert label_map(scores, seen, 0.0).tolist() == [[0, 0]]
    assert label_map(scores, seen, 0.2).tolist() == [[1, 0]]


def test_the_picture_shows_each_label_in_its_colour_and_names_what_is_unseen() -> None:
    vocabulary = Vocabulary(["sky", "red star"], seen=["sky"])
    image = np.full((40, 40, 3), 128, np.uint8)
    truth = np.zeros((40, 40), np.int64)
    truth[:20] = 1
    picture = np.asarray(pictures.comparison([image], [truth], {"right": [truth], "wrong": [1 - truth]}, vocabulary))
    step = pictures.SIDE_PX + 8
    grey, true, right, wrong = (picture[60, column * step + pictures.SIDE_PX // 2] for column in range(4))
    assert grey.tolist() == [128, 128, 128]
    assert true.tolist() == right.tolist() != wrong.tolist()
    plain = pictures.comparison([image], [truth], {}, Vocabulary(["sky", "red star"], seen=["sky", "red star"]))
    noted = pictures.comparison([image], [truth], {}, vocabulary)
    assert plain.tobytes() != noted.tobytes()


@pytest.mark.slow
def test_a_whole_small_study(tmp_path: Path) -> None:
    settings = study.StudySettings(
        seeds=(1, 2),
        images=10,
        validation_images=8,
        test_images=20,
        settings={
            kind: [*tiny(kind, steps=2), "loop.seed=1"] if kind == "clip" else tiny(kind, steps=2) for kind in KINDS
        },
    )
    page = study.run_study(tmp_path, settings).read_text()
    document = json.loads((tmp_path / "study.json").read_text())
    assert list(document["methods"]) == list(study.METHODS)
    for name, row in document["methods"].items():
        assert f"| {name} |" in page
        for figure in study.FIGURES:
            own = row[figure]
            assert own["mean"] == pytest.approx(np.mean(own["by_seed"]))
            assert 0 <= own["low"] <= own["high"] <= 100
    assert (
        document["methods"]["per-pixel"]["seen"]["by_seed"][0] != document["methods"]["per-pixel"]["seen"]["by_seed"][1]
    )
    assert document["training_cpu_seconds"].keys() == {
        *("clip-1", "clip-2", "clip-3", "grouping-1", "grouping-2", "baseline-1", "baseline-2")
    }
    assert min(document["training_cpu_seconds"].values()) > 0
    assert document["regions"]["masks"].keys() == {"seen", "unseen"}
    assert set(document["phrases"]) == set(study.PHRASINGS)

    with Image.open(tmp_path / "study.png") as picture:
        assert picture.width > (2 + len(study.PICTURED)) * pictures.SIDE_PX

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*-[123]/*.safetensors")}
    assert study.run_study(tmp_path, settings).read_text() == page
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*-[123]/*.safetensors")} == before


KINDS = ("clip", "grouping", "baseline")
