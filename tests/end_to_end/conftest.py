"""Small sets of drawn images in every input format, and the ways to label them: in this process or as a user would."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.config import LabelConfig
from pipeline.plan import plan_run
from pipeline.run import RunResult, run_plan
from pipeline.shapes.write import ShapesSettings, write_shapes

IMAGES = 50
SHARD_SIZE = 10
SEED = 77
MASKMILL = [sys.executable, "-m", "jobs.main"]

Label = Callable[..., RunResult]


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as tars, Parquet and a folder: ``wds/``, ``parquet/``, ``folder/``."""
    root = tmp_path_factory.mktemp("shapes")
    for form in ("wds", "parquet", "folder"):
        write_shapes(
            str(root / form), ShapesSettings(images=IMAGES, seed=SEED, file_format=form, shard_size=SHARD_SIZE)
        )
    return root


@pytest.fixture
def label(local_ray: None, shapes: Path) -> Label:
    """``label(input, output, **settings)``: a run in this process on the file's Ray, on CPUs if nothing is said."""

    def run(source: str | Path, output: str | Path, **settings: Any) -> RunResult:
        defaults = {
            "classes": str(shapes / "wds" / "classes.json"),
            "propose_gpus": 0,
            "propose_actors": 1,
            "classify_gpus": None,
        }
        config = LabelConfig(input=str(source), output=str(output), **{**defaults, **settings})
        return run_plan(plan_run(config), lambda progress: None)

    return run


def read_rows(output: str | Path, kind: str = "labels") -> list[dict[str, Any]]:
    """All rows of a run's labels or errors, in shard and input order."""
    return [row for path in sorted(Path(output, kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def by_image(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows by the last part of their image id; an id that comes twice fails."""
    found = {row["image_id"].rsplit("/", 1)[-1]: row for row in rows}
    assert len(found) == len(rows)
    return found


def command(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``maskmill`` in a process of its own."""
    return subprocess.run(
        [*MASKMILL, *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False, **options
    )


def summary(output: str | Path) -> dict[str, Any]:
    """The run's summary.json."""
    return json.loads(Path(output, "summary.json").read_text())
