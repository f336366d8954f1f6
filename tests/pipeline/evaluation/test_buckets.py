"""Predictions, ground truth and results in a bucket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from maskmill.pipeline.evaluation.config import EvaluationConfig
from maskmill.pipeline.evaluation.evaluate import evaluate
from tests.conftest import Bucket
from tests.pipeline.evaluation.handmade import PAIRS, Run, panoptic_json, write_folder, write_tar
from tests.pipeline.evaluation.here import evaluate_here

TRUTH = {name: gt for name, (gt, _) in PAIRS.items()}


def as_folder(folder: Path) -> str:
    return write_folder(folder / "gt", TRUTH).name


def as_tar(folder: Path) -> str:
    return write_tar(folder / "gt.tar", TRUTH).name


def as_panoptic_json(folder: Path) -> str:
    return panoptic_json(folder, TRUTH).name


@pytest.mark.parametrize("form", [as_folder, as_tar, as_panoptic_json])
@pytest.mark.parametrize("predictions", ["run", "maps"])
def test_a_bucket_gives_the_figures_of_a_disk(
    predictions: str,
    form: Callable[[Path], str],
    run: Run,
    s3_bucket: Bucket,
    protocol_file: Path,
    tmp_path: Path,
) -> None:
    run.add("s", {name: pred for name, (_, pred) in PAIRS.items()})
    write_folder(tmp_path / "maps", {name: pred for name, (_, pred) in PAIRS.items()})
    truth = form(tmp_path)

    def evaluated(root: str, **options: object) -> dict[str, object]:
        config = EvaluationConfig(
            output=f"{root}/{predictions}",
            ground_truth=f"{root}/{truth}",
            protocol=f"{root}/three.json",
            shard_size=5,
            **options,
        )
        figures = evaluate(config, evaluate_here).figures
        # A second call must find every part and give the same figures.
        again = evaluate(config, lambda comparison, units: pytest.fail(f"{len(units)} units counted twice")).figures
        assert again == figures
        return {key: value for key, value in figures.items() if key != "fingerprint"}

    s3_bucket.upload(tmp_path, "data")
    remote = evaluated(f"{s3_bucket.uri}/data", storage_option=s3_bucket.storage_options)
    assert remote == evaluated(str(tmp_path))
    place = "run/evaluation" if predictions == "run" else "maps-evaluation"
    written = {key.removeprefix(f"data/{place}/") for key in s3_bucket.keys(f"data/{place}/")}
    assert {"evaluation.json", "per_class.parquet", "confusion.parquet", "summary.md"} <= written
