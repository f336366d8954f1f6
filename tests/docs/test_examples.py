"""The examples of README and docs/ are run: the demo, and every block of Python on its output."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.docs.pages import PAGES, blocks_of

BLOCKS = [block for page in PAGES for block in blocks_of(page, "python")]
MARKS = {
    "pandas": 'groupby("class_names")["areas"]',
    "duckdb": "duckdb.sql",
    "polars": "import polars",
    "ray": "import ray",
    "pycocotools": "from pycocotools",
    "model": "from maskmill import",
}
"""What tells each block from the others; one test below runs each."""
IMAGES = 24


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which ``maskmill demo`` was run, by the command's own words, with fewer images."""
    folder = tmp_path_factory.mktemp("examples")
    command = [sys.executable, "-m", "maskmill.jobs.main", "demo", "demo", "--images", str(IMAGES)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "stdout.txt").write_text(result.stdout)
    yield folder
    shutil.rmtree(folder)


def labels(demo: Path) -> list[dict[str, object]]:
    return pq.read_table(demo / "demo" / "output" / "labels").to_pylist()


@pytest.mark.slow
def test_the_demo_shows_commands_accuracy_and_places(demo: Path) -> None:
    stdout = (demo / "stdout.txt").read_text()
    for step in ("$ maskmill shapes", "$ maskmill label", "$ maskmill evaluate"):
        assert step in stdout
    accuracy = float(re.search(r"^pixel accuracy  (0\.\d+)", stdout, flags=re.MULTILINE).group(1))
    assert accuracy >= 0.90
    assert len(labels(demo)) == IMAGES
    picture = np.asarray(Image.open(demo / re.search(r"^picture\s+(\S+)$", stdout, flags=re.MULTILINE).group(1)))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1000


def run_block(library: str, folder: Path) -> str:
    """What the block about ``library`` prints when it is run in ``folder``, in another process."""
    [block] = [block for block in BLOCKS if MARKS[library] in block]
    result = subprocess.run([sys.executable, "-c", block], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_block_has_its_mark() -> None:
    found = [[library for library, mark in MARKS.items() if mark in block] for block in BLOCKS]
    assert sorted(found) == sorted([library] for library in MARKS)


@pytest.mark.slow
def test_pandas_adds_up_areas(demo: Path) -> None:
    areas: dict[str, int] = {}
    for row in labels(demo):
        for name, area in zip(row["class_names"], row["areas"], strict=True):
            areas[name] = areas.get(name, 0) + area
    printed = run_block("pandas", demo)
    found = dict(re.findall(r"^(\S.*?)\s+(\d+)$", printed, flags=re.MULTILINE))
    assert {name: int(area) for name, area in found.items()} == areas


@pytest.mark.slow
def test_duckdb_counts_images(demo: Path) -> None:
    counts: dict[str, int] = {}
    for row in labels(demo):
        for name in row["class_names"]:
            counts[name] = counts.get(name, 0) + 1
    printed = run_block("duckdb", demo)
    found = {name: int(count) for name, count in re.findall(r"│ (\S.*?)\s+│\s+(\d+) │", printed)}
    assert found
    assert found.items() <= counts.items()
    assert max(counts.values()) in found.values()


@pytest.mark.slow
def test_polars_averages_scores(demo: Path) -> None:
    printed = run_block("polars", demo)
    classes = {name for row in labels(demo) for name in row["class_names"]}
    assert f"shape: ({len(classes)}, 2)" in printed


@pytest.mark.slow
def test_ray_averages_coverage(demo: Path) -> None:
    printed = run_block("ray", demo)
    expected = np.mean([row["coverage"] for row in labels(demo)])
    assert float(printed.split()[-1]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_masks_decode_to_their_area(demo: Path) -> None:
    *_, decoded, area = run_block("pycocotools", demo).split()
    assert int(decoded) == int(area) > 0


@pytest.mark.slow
def test_the_model_alone_names_most_pixels(demo: Path) -> None:
    printed = run_block("model", demo)
    share = float(re.match(r"right: ([\d.]+)\n", printed).group(1))
    assert share > 0.8
    names = re.findall(r"'([\w ]+)'", printed)
    assert len(names) > 1
