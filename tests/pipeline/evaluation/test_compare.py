from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskmill.pipeline.evaluation.compare import COMPARED, compare
from maskmill.pipeline.evaluation.evaluate import Evaluation, other_results
from maskmill.pipeline.evaluation.protocol import EvaluationError
from tests.pipeline.evaluation.handmade import THREE, Maps, Run, blobs, write_folder

Evaluated = Callable[..., Evaluation]
IMAGES = 60


def spoiled(truth: Maps, share: float, seed: int) -> dict[str, np.ndarray]:
    """Return predictions with about this share of pixels replaced."""
    rng = np.random.default_rng(seed)
    return {
        name: np.where(rng.random(labels.shape) < share, rng.integers(0, 3, labels.shape), labels).astype(np.uint8)
        for name, labels in truth.items()
    }


@pytest.fixture
def truth() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"{i:03d}": blobs(rng, 3) for i in range(IMAGES)}


@pytest.fixture
def two(truth: dict[str, np.ndarray], tmp_path: Path, evaluated: Evaluated) -> tuple[Evaluation, Evaluation]:
    """A good and a worse run on the same images, divided into different shards."""
    folder = write_folder(tmp_path / "gt", truth)
    found = []
    for name, share, shard_size in (("good", 0.1, 7), ("bad", 0.3, 100)):
        run = Run(tmp_path / name, THREE["classes"])
        run.add("s", spoiled(truth, share, seed=1))
        found.append(evaluated(run.folder, folder, shard_size=shard_size))
    return found[0], found[1]


def test_values_are_those_of_the_evaluations(two: tuple[Evaluation, Evaluation]) -> None:
    good, bad = two
    found = compare(good.results, bad.results, good.protocol, 200)
    assert found["images"] == IMAGES
    for name in COMPARED:
        row = found["figures"][name]
        assert row["value"] == pytest.approx(good.figures[name])
        assert row["other"] == pytest.approx(bad.figures[name])
        assert row["difference"] == pytest.approx(good.figures[name] - bad.figures[name])
        assert row["low"] < row["difference"] < row["high"]
        assert row["low"] > 0, "the difference is large, and both runs saw the same images"
        assert row["share_above"] == 1
    assert json.loads((Path(good.results.uri) / "comparison.json").read_text()) == found


def test_the_other_way_round_is_the_mirror_image(two: tuple[Evaluation, Evaluation]) -> None:
    good, bad = two
    one = compare(good.results, bad.results, good.protocol, 200)["figures"]
    other = compare(bad.results, good.results, good.protocol, 200)["figures"]
    for name in COMPARED:
        assert one[name]["low"] == pytest.approx(-other[name]["high"])


def test_a_run_against_itself_differs_by_nothing(two: tuple[Evaluation, Evaluation]) -> None:
    good, _ = two
    rows = compare(good.results, good.results, good.protocol, 100)["figures"].values()
    assert {(row["difference"], row["low"], row["high"], row["share_above"]) for row in rows} == {(0, 0, 0, 0)}


def test_intervals_agree_with_a_plain_bootstrap(
    truth: dict[str, np.ndarray], two: tuple[Evaluation, Evaluation]
) -> None:
    """Compare pixel accuracy with a bootstrap that draws images with replacement instead of Poisson weights."""
    good, bad = two
    predictions = [spoiled(truth, share, seed=1) for share in (0.1, 0.3)]
    correct = np.array([[(maps[name] == truth[name]).sum() for name in truth] for maps in predictions])
    rng = np.random.default_rng(9)
    chosen = rng.integers(0, IMAGES, (4000, IMAGES))
    differences = 100 * (correct[0] - correct[1])[chosen].sum(axis=1) / (IMAGES * 480)
    low, high = np.quantile(differences, [0.025, 0.975])
    row = compare(good.results, bad.results, good.protocol, 4000)["figures"]["pixel_accuracy"]
    # Over six seeds of the plain bootstrap the ends were at most 0.028 apart, of intervals 0.73 to 0.76 wide.
    assert row["low"] == pytest.approx(low, abs=0.05)
    assert row["high"] == pytest.approx(high, abs=0.05)


def test_only_images_of_both_are_compared(
    truth: dict[str, np.ndarray], two: tuple[Evaluation, Evaluation], tmp_path: Path, evaluated: Evaluated
) -> None:
    good, _ = two
    run = Run(tmp_path / "part", THREE["classes"])
    run.add("s", spoiled({name: truth[name] for name in list(truth)[:20]}, 0.1, seed=1))
    part = evaluated(run.folder, tmp_path / "gt", allow_missing=True)
    found = compare(part.results, good.results, good.protocol, 100)
    assert (found["images"], found["images_only_here"], found["images_only_there"]) == (20, 0, IMAGES - 20)
    assert found["figures"]["miou"]["value"] == pytest.approx(part.figures["miou"])


def test_what_cannot_be_compared(
    truth: dict[str, np.ndarray], two: tuple[Evaluation, Evaluation], tmp_path: Path, evaluated: Evaluated
) -> None:
    good, bad = two
    with pytest.raises(EvaluationError, match="holds no evaluation: run `maskmill evaluate` on it first"):
        other_results(str(tmp_path / "nowhere"), {})
    assert other_results(str(tmp_path / "bad"), {}).uri == bad.results.uri
    assert other_results(bad.results.uri, {}).uri == bad.results.uri

    other = tmp_path / "other.json"
    other.write_text(json.dumps({**THREE, "ignore_label": 254}))
    elsewhere = evaluated(tmp_path / "bad", tmp_path / "gt", protocol=str(other), results=str(tmp_path / "elsewhere"))
    with pytest.raises(EvaluationError, match=r"evaluated with protocol 'other' \(gzs3\), not 'three' \(gzs3\)"):
        compare(good.results, elsewhere.results, good.protocol, 100)

    changed = write_folder(tmp_path / "changed", {name: 2 - labels for name, labels in truth.items()})
    relabelled = evaluated(tmp_path / "bad", changed, results=str(tmp_path / "relabelled"))
    with pytest.raises(EvaluationError, match="different ground truth for the same image ids"):
        compare(good.results, relabelled.results, good.protocol, 100)
