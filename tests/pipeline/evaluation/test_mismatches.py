"""Predictions and ground truth that do not fit together are an error that says what does not match."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.evaluation.evaluate import Evaluation
from maskmill.pipeline.evaluation.protocol import EvaluationError
from tests.pipeline.evaluation.handmade import THREE, Run, encode, label_row, write_folder

Evaluated = Callable[..., Evaluation]
SKY = np.zeros((4, 6), np.uint8)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "gt", dict.fromkeys(("a", "b", "c"), SKY))


def test_missing_predictions_fail_unless_allowed(run: Run, truth: Path, evaluated: Evaluated) -> None:
    run.add("s", {"a": SKY})
    with pytest.raises(
        EvaluationError, match=r"2 images have ground truth but no prediction, such as 'b'.*allow-missing"
    ):
        evaluated(run.folder, truth)
    found = evaluated(run.folder, truth, allow_missing=True).figures
    assert found["counts"]["images"] == 1
    assert found["counts"]["images_without_prediction"] == 2
    assert found["miou"] == 100


def test_failed_images_are_missing_predictions(run: Run, truth: Path, evaluated: Evaluated) -> None:
    row = label_row("a", SKY.shape, [0], [encode(SKY == 0)], [1.0])
    run.add_rows("s", [row], failed=["b", "c"])
    with pytest.raises(EvaluationError, match="2 are in the run's errors tables"):
        evaluated(run.folder, truth)
    assert evaluated(run.folder, truth, allow_missing=True).figures["counts"]["images_failed_in_labelling"] == 2


def test_shards_without_a_marker_do_not_count(run: Run, truth: Path, evaluated: Evaluated) -> None:
    run.add("s1", {"a": SKY, "b": SKY})
    run.add("s2", {"c": SKY})
    (run.folder / "stats/s2.json").unlink()
    path = run.folder / "run.json"
    path.write_text(path.read_text().replace('"shards": 0', '"shards": 2'))
    with pytest.raises(EvaluationError, match=r"1 images have .* such as 'c' .*1 of its shards are not finished"):
        evaluated(run.folder, truth)


def test_predictions_without_ground_truth_fail_unless_allowed(run: Run, truth: Path, evaluated: Evaluated) -> None:
    run.add("s", dict.fromkeys(("a", "b", "c", "extra"), SKY))
    with pytest.raises(EvaluationError, match=r"1 images have a prediction but no ground truth, such as 'extra'"):
        evaluated(run.folder, truth)
    counts = evaluated(run.folder, truth, allow_missing=True).figures["counts"]
    assert (counts["images"], counts["images_without_ground_truth"]) == (3, 1)


def test_nothing_in_common_fails_in_any_case(run: Run, truth: Path, evaluated: Evaluated) -> None:
    run.add("s", {"x": SKY})
    with pytest.raises(EvaluationError, match=r"1 predictions \(such as 'x'\), 3 images .*'a', 'b'"):
        evaluated(run.folder, truth, allow_missing=True)


def test_photographs_without_ground_truth_are_none(run: Run, tmp_path: Path, evaluated: Evaluated) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "photos/a.jpg")
    run.add("s", {"a": SKY})
    with pytest.raises(EvaluationError, match="no prediction has ground truth"):
        evaluated(run.folder, tmp_path / "photos")


def test_two_truths_for_one_prediction(run: Run, tmp_path: Path, evaluated: Evaluated) -> None:
    run.add("s", {"a": SKY})
    folder = write_folder(tmp_path / "twice", {"x/a": SKY, "y/a": SKY})
    with pytest.raises(EvaluationError, match="1 predictions match more than one ground truth image, such as 'a'"):
        evaluated(run.folder, folder)
    run.add("s2", {"b": SKY})
    write_folder(tmp_path / "twice", {"b": SKY})
    for _ in range(2):  # the second evaluation reads the parts of the first
        found = evaluated(run.folder, folder, allow_missing=True, shard_size=1).figures
        assert (found["counts"]["images"], found["counts"]["images_ambiguous"]) == (1, 2)
        assert any("'x/a', 'y/a'" in warning for warning in found["warnings"])
    (folder / "y/a.png").unlink()
    assert evaluated(run.folder, folder, shard_size=1).figures["counts"]["images"] == 2


def test_one_image_labelled_twice(run: Run, truth: Path, evaluated: Evaluated) -> None:
    run.add("s1", {"a": SKY})
    run.add("s2", {"a": SKY, "b": SKY, "c": SKY})
    with pytest.raises(EvaluationError, match=r"1 ground truth images match several predictions, .*: 'a'"):
        evaluated(run.folder, truth)
    found = evaluated(run.folder, truth, allow_missing=True).figures
    assert (found["counts"]["images"], found["counts"]["images_ambiguous"]) == (2, 1)
    assert any("match several predictions" in warning and "'a'" in warning for warning in found["warnings"])


def test_other_classes(tmp_path: Path, truth: Path, evaluated: Evaluated) -> None:
    run = Run(tmp_path / "other", [*THREE["classes"][:2], {"name": "wolf"}])
    run.add("s", {"a": SKY})
    with pytest.raises(EvaluationError, match="not among the labels' classes: 'dog'; not in the protocol: 'wolf'"):
        evaluated(run.folder, truth)
    with pytest.raises(EvaluationError, match="3 classes instead of 20"):
        evaluated(run.folder, truth, protocol="voc")


@pytest.mark.parametrize("class_id", [3, -1, 70000])
def test_class_ids_out_of_range(class_id: int, run: Run, truth: Path, evaluated: Evaluated) -> None:
    rows = [label_row(name, SKY.shape, [0], [encode(SKY == 0)], [1.0]) for name in ("a", "b", "c")]
    rows[1]["class_ids"] = [class_id]
    run.add_rows("s", rows)
    with pytest.raises(EvaluationError, match=f"the prediction of 'b' holds {class_id}, which the protocol's 3"):
        evaluated(run.folder, truth)


@pytest.mark.parametrize(
    "rles, scores, message",
    [
        ([encode(np.ones((4, 6), bool))] * 2, [1.0, 1.0], "'b': segments share pixels"),
        (
            [encode(np.ones((4, 7), bool)), encode(SKY > 0)],
            [1.0, 1.0],
            "'b': an RLE covers 28 pixels of an image .* 24",
        ),
        (["é", encode(SKY > 0)], [1.0, 1.0], "'b': an RLE holds a character"),
        ([encode(SKY == 0)], [1.0, 1.0], "'b' has 1 RLEs for 2 segments"),
        ([encode(SKY == 0), encode(SKY > 0)], [1.0], "2 scores for 3 segments|3 scores for 4 segments"),
        ([encode(SKY == 0), encode(SKY > 0)], [1.0, 1.5], r"scores must lie in 0\.\.1"),
    ],
)
def test_damaged_segments_name_their_image(
    rles: list[str], scores: list[float], message: str, run: Run, truth: Path, evaluated: Evaluated
) -> None:
    if scores[-1] > 1:  # the score of a segment without pixels is not used
        rles = [encode(np.arange(24).reshape(4, 6) % 2 == 0), encode(np.arange(24).reshape(4, 6) % 2 == 1)]
    good = [label_row(name, SKY.shape, [0], [encode(SKY == 0)], [1.0]) for name in ("a", "c")]
    run.add_rows("s", [good[0], label_row("b", SKY.shape, [0, 1], rles, scores), good[1]])
    with pytest.raises(EvaluationError, match=message):
        evaluated(run.folder, truth)


@pytest.mark.parametrize(
    "missing, message",
    [
        ("run.json", "no run.json"),
        ("classes.json", "no classes.json"),
        ("stats", "no finished shard"),
    ],
)
def test_half_a_run(missing: str, message: str, run: Run, truth: Path, evaluated: Evaluated) -> None:
    run.add("s", {"a": SKY})
    path = run.folder / missing
    if path.is_dir():
        (path / "s.json").unlink()
    else:
        path.unlink()
    with pytest.raises(EvaluationError, match=message):
        evaluated(run.folder, truth)


def test_paths_that_are_not_there(run: Run, truth: Path, evaluated: Evaluated, tmp_path: Path) -> None:
    run.add("s", {"a": SKY})
    with pytest.raises(UsageError, match="no such file or folder"):
        evaluated(run.folder, tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no such file or folder"):
        evaluated(tmp_path / "nowhere", truth)
    with pytest.raises(UsageError, match="does not exist"):
        evaluated(tmp_path / "nowhere.json", truth)
