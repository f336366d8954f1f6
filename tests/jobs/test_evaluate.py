"""``maskmill evaluate`` as typed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from maskmill.jobs.main import app
from maskmill.pipeline.shapes.world import classes_document
from maskmill.pipeline.shapes.write import ShapesSettings, encode_sample, write_shapes
from tests.pipeline.evaluation.handmade import Run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten drawings as tars, and two runs: one that named every pixel right, one that took all for grass."""
    write_shapes(str(tmp_path / "images"), ShapesSettings(images=10, seed=5, shard_size=4))
    truth = {f"{i:06d}": np.asarray(Image.open(io.BytesIO(encode_sample(5, i).segmentation_png))) for i in range(10)}
    classes = classes_document()["classes"]
    Run(tmp_path / "right", classes).add("s", truth)
    Run(tmp_path / "grass", classes).add("s", {name: np.full_like(labels, 48) for name, labels in truth.items()})
    return tmp_path


def maskmill(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-m", "maskmill.jobs.main", "evaluate", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


@pytest.mark.usefixtures("local_ray")
def test_evaluate_and_compare_by_relative_paths(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = maskmill(data, "grass", "images/*.tar", "--protocol", "shapes", "--workers", "2")
    assert first.returncode == 0, first.stderr
    assert "mIoU, new_shape" in first.stdout
    assert "evaluating: 3/3 shards  10 images" in first.stderr

    monkeypatch.chdir(data)
    second = CliRunner().invoke(
        app, ["evaluate", "right", "images/*.tar", "--protocol", "shapes", "--compare", "grass"]
    )
    assert second.exit_code == 0, second.stderr
    assert "difference over 10 images of both" in second.stdout
    found = json.loads((data / "right/evaluation/evaluation.json").read_text())
    assert found["miou"] == found["miou_harmonic"] == found["pixel_accuracy"] == found["boundary_f"] == 100
    assert json.loads((data / "right/evaluation/comparison.json").read_text())["figures"]["miou"]["low"] > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("right", "images/*.tar", "--protocol", "voc"), "56 classes instead of 20"),
        (
            ("right", "images/*.tar", "--protocol", "shape"),
            "unknown protocol 'shape'. Choose from: ade20k-150, ",
        ),
        (("right", "images/*.tar"), "protocol is missing"),
        (("right", "nowhere", "--protocol", "shapes"), "no such file or folder"),
        (("right", "images/*.tar", "--protocol", "shapes", "--compare", "x"), "holds no evaluation"),
        (("right", "images/*.tar", "--protocol", "shapes", "--setting", "zs4"), "Choose from: gzs3, zs3"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
