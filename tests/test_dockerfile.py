"""The Dockerfile without a Docker engine: linted, not root, our versions, and everything it copies is there.

Building it takes the network and an engine; that is for whoever publishes the images.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from maskmill.jobs.main import app
from maskmill.model.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SBATCH = ROOT / "jobs" / "slurm" / "label.sbatch"


def linter(name: str) -> str:
    """A linter of the development environment, which `make setup` installs."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_hadolint_has_nothing_to_say() -> None:
    result = subprocess.run([linter("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_hadolint_would_notice_root(tmp_path: Path) -> None:
    broken = tmp_path / "Dockerfile"
    broken.write_text(DOCKERFILE.replace("USER 1000", "USER root"))
    assert subprocess.run([linter("hadolint"), broken], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("script", [SBATCH, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    result = subprocess.run([linter("shellcheck"), script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_it_ends_as_an_ordinary_user() -> None:
    assert re.findall(r"^USER (.*)$", DOCKERFILE, flags=re.MULTILINE) == ["1000"]


def test_versions_are_the_projects() -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE, flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ray_range = next(item for item in project["dependencies"] if item.startswith("ray["))
    assert arguments["RAY"].startswith(re.search(r">=(\d+\.\d+)", ray_range).group(1) + ".")
    pin = re.search(r"^TORCH_PIN \?= (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE).group(1)
    assert pin == f"torch=={arguments['TORCH_VERSION']} torchvision=={arguments['TORCHVISION_VERSION']}"


def test_what_it_copies_is_there_and_reaches_the_builder() -> None:
    copied = {
        name
        for line in re.findall(r"^COPY --chown=\S+ (.*) \S+$", DOCKERFILE, flags=re.MULTILINE)
        for name in line.split()
    }
    assert copied >= {"maskmill", "model", "pipeline", "jobs", "pyproject.toml", "constraints.txt"}
    assert all((ROOT / name).exists() for name in copied)
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_through


def test_baked_weights_lie_where_the_guide_says() -> None:
    """The command that bakes is one, and the job of the guide names the two folders that it writes."""
    [baked] = re.findall(r'maskmill (models --fetch "\$\{PRESET\}" --into \S+)', DOCKERFILE)
    words = shlex.split(baked.replace('"${PRESET}"', "bundled"))
    refused = CliRunner().invoke(app, words)
    assert (refused.exit_code, "preset 'bundled' has nothing to fetch by name" in refused.stderr) == (2, True)
    guide = (ROOT / "docs" / "operations.md").read_text()
    assert f"`weights: {words[-1]}/weights`, `clip: {words[-1]}/clip`" in guide
    for preset in re.findall(r"--build-arg PRESET=(\S+)", DOCKERFILE + guide):
        assert PRESETS[preset.strip("`")].download is not None
