"""A user's folder with a `model/`, a `pipeline.py`, a `torch/`, a `numpy.py` of his: the job runs there as anywhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from maskmill.pipeline.shapes.write import ShapesSettings, write_shapes
from tests.end_to_end.conftest import lay_traps, read_rows

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The user's folder, with images to label."""
    write_shapes(str(tmp_path / "images"), ShapesSettings(images=IMAGES, seed=5, file_format="folder"))
    lay_traps(tmp_path)
    return tmp_path


@pytest.fixture
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment into which a wheel of this project was installed; all else comes from ours."""
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for package in ("maskmill", "model", "pipeline", "jobs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored, symlinks=True)
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    site = place / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (site / "ours.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", str(source)]
    subprocess.run([*pip, *options], check=True)
    assert (site / "maskmill" / "jobs" / "main.py").is_file()
    return place / "bin" / "maskmill"


def label(command: Path, folder: Path) -> None:
    arguments = ["label", "images", "out", "--classes", "images/classes.json", "--cpus", "2"]
    done = subprocess.run([command, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read_rows(folder / "out")) == IMAGES


@pytest.mark.slow
def test_an_editable_install_labels_there(folder: Path) -> None:
    label(Path(sys.executable).with_name("maskmill"), folder)


@pytest.mark.slow
def test_an_installed_wheel_labels_there(installed: Path, folder: Path) -> None:
    label(installed, folder)


@pytest.mark.slow
def test_the_demo_runs_there(folder: Path) -> None:
    command = [Path(sys.executable).with_name("maskmill"), "demo", "demo", "--images", str(IMAGES)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
