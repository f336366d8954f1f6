"""Small sets of drawn images in every input format, and the ways to label them: in this process or as a user would."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from maskmill.jobs.main import app
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.run.execute import run_plan
from maskmill.pipeline.run.plan import plan_run
from maskmill.pipeline.run.summary import RunResult
from maskmill.pipeline.shapes.write import ShapesSettings, write_shapes
from tests.shared_ray import SharedRay

IMAGES = 50
SHARD_SIZE = 10
SEED = 77
MASKMILL = [sys.executable, "-P", "-m", "maskmill.jobs.main"]

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
    """``label(input, output, **settings)``: a run in this process, on CPUs if nothing is said.

    The model is the bundled one, or with the fixture ``tiny_model`` one that costs nothing.
    """

    return partial(run_here, shapes)


@pytest.fixture(scope="session")
def reference(
    shared_ray: SharedRay, shapes: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """The rows of ``shapes`` by image, labelled by the bundled model with the settings it has by default."""
    shared_ray.join()
    output = tmp_path_factory.mktemp("reference")
    run_here(shapes, shapes / "wds", output, propose_actors=None)
    rows = by_image(read_rows(output))
    assert len(rows) == IMAGES
    assert sum(len(row["class_ids"]) for row in rows.values()) > IMAGES
    return rows


def copies_of(shapes: Path, folder: Path) -> Path:
    """A folder of 1,000 images in 100 tars, 20 times those of ``shapes``: far to go when the first shard is done."""
    folder.mkdir()
    for copy in range(20):
        for archive in (shapes / "wds").glob("*.tar"):
            os.link(archive, folder / f"{copy:02d}-{archive.name}")
    return folder


def run_here(shapes: Path, source: str | Path, output: str | Path, **settings: Any) -> RunResult:
    """Label in this process, with the classes of ``shapes``."""
    defaults = {
        "classes": str(shapes / "wds" / "classes.json"),
        "propose_gpus": 0,
        "propose_actors": 1,
        "classify_gpus": None,
    }
    config = LabelConfig(input=str(source), output=str(output), **{**defaults, **settings})
    return run_plan(plan_run(config), lambda progress: None)


def lay_traps(folder: Path) -> None:
    """Files of the user's that are called like packages of this project or of others, as in many a repository."""
    for package in ("model", "jobs", "torch"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("OURS = False\n")
    for module in ("pipeline.py", "numpy.py", "yaml.py"):
        (folder / module).write_text("OURS = False\n")


def read_rows(output: str | Path, kind: str = "labels") -> list[dict[str, Any]]:
    """All rows of a run's labels or errors, in shard and input order."""
    return [row for path in sorted(Path(output, kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def by_image(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows by the last part of their image id; an id that comes twice fails."""
    found = {row["image_id"].rsplit("/", 1)[-1]: row for row in rows}
    assert len(found) == len(rows)
    return found


def command_here(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``maskmill`` in this process, on the Ray that it is on."""
    handlers, level = logging.root.handlers[:], logging.root.level
    words = [str(argument) for argument in arguments]
    try:
        done = CliRunner().invoke(app, words, catch_exceptions=False)
    finally:
        logging.root.handlers[:], logging.root.level = handlers, level
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


def command(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``maskmill`` in a process of its own."""
    return subprocess.run(
        [*MASKMILL, *map(str, arguments)], capture_output=True, text=True, timeout=800, check=False, **options
    )


def summary(output: str | Path) -> dict[str, Any]:
    """The run's summary.json."""
    return json.loads(Path(output, "summary.json").read_text())
