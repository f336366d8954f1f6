"""Photographs that EXIF turns while their ground truth is not turned: reported, and resized only on request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskmill.pipeline.evaluation.evaluate import Evaluation
from maskmill.pipeline.evaluation.protocol import EvaluationError
from tests.pipeline.evaluation.handmade import Run, blobs, wide, write_folder

Evaluated = Callable[..., Evaluation]


@pytest.fixture
def turned(run: Run) -> dict[str, np.ndarray]:
    """Ground truth of three photographs as they are stored; EXIF turns two of them clockwise by a quarter."""
    truth = {name: blobs(np.random.default_rng(seed), 3) for seed, name in enumerate("abc")}
    run.add("s", {"a": wide(truth["a"]), "b": wide(np.rot90(truth["b"], 3)), "c": wide(np.rot90(truth["c"], 3))})
    return truth


@pytest.mark.parametrize("scale", [1, 3])
def test_swapped_sides_are_named_and_refused(
    scale: int, run: Run, turned: dict[str, np.ndarray], evaluated: Evaluated, tmp_path: Path
) -> None:
    truth = {name: np.kron(labels, np.ones((scale, scale), np.uint8)) for name, labels in turned.items()}
    width, height = 24 * scale, 20 * scale
    with pytest.raises(EvaluationError, match="2 images are as high as their ground truth is wide") as caught:
        evaluated(run.folder, write_folder(tmp_path / "gt", truth))
    for name in "bc":
        assert f"{name} (ground truth {width}x{height}, image 20x24)" in str(caught.value)
    assert "--swapped-sides" in str(caught.value)


def test_swapped_sides_are_turned_skipped_or_resized_where_told(
    run: Run, turned: dict[str, np.ndarray], evaluated: Evaluated, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "gt", turned)
    with pytest.raises(EvaluationError):
        evaluated(run.folder, folder)
    ways = ("right", "left", "skip", "resize")
    found = {way: evaluated(run.folder, folder, swapped_sides=way).figures for way in ways}
    counts = {way: each["counts"] for way, each in found.items()}
    assert (found["right"]["miou"], counts["right"]["images"], counts["right"]["images_resized"]) == (100, 3, 0)
    assert (found["skip"]["miou"], counts["skip"]["images"]) == (100, 1)
    assert (counts["skip"]["images_without_prediction"], counts["skip"]["images_without_ground_truth"]) == (0, 0)
    assert found["left"]["miou"] < 100
    assert counts["resize"]["images_resized"] == 2
    assert found["resize"]["miou"] < 100
    for way, text in (("right", "turned right"), ("skip", "left out"), ("resize", "resized")):
        assert counts[way]["images_with_swapped_sides"] == 2
        assert any(text in warning and "b (ground truth 24x20" in warning for warning in found[way]["warnings"])


def test_all_on_their_side_is_not_said_to_be_without_ground_truth(
    run: Run, evaluated: Evaluated, tmp_path: Path
) -> None:
    run.add("s", {"a": np.zeros((6, 4), np.uint16)})
    folder = write_folder(tmp_path / "gt", {"a": np.zeros((4, 6), np.uint8)})
    with pytest.raises(EvaluationError, match="1 images are as high"):
        evaluated(run.folder, folder)
    with pytest.raises(EvaluationError, match="sides swapped and was left out"):
        evaluated(run.folder, folder, swapped_sides="skip")


@pytest.mark.parametrize("shape", [(20, 24), (10, 12), (40, 48), (41, 48), (20, 20), (64, 64), (10, 12 * 4)])
def test_other_sizes_that_are_not_on_their_side_are_resized(
    shape: tuple[int, int], run: Run, evaluated: Evaluated, tmp_path: Path
) -> None:
    run.add("s", {"a": np.zeros((20, 24), np.uint16)})
    folder = write_folder(tmp_path / "gt", {"a": np.zeros(shape, np.uint8)})
    assert evaluated(run.folder, folder).figures["counts"]["images_with_swapped_sides"] == 0
