"""The oldest versions that the extra ``photo`` allows, in an environment of their own above this one."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BOUNDED = ("transformers", "huggingface_hub")
CHECK = "import transformers, huggingface_hub; print(transformers.__version__, huggingface_hub.__version__)"


def lower_bounds() -> dict[str, str]:
    """The oldest version of each of ``BOUNDED`` that the extra allows."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = {}
    for requirement in extras["photo"]:
        match = re.fullmatch(r"([\w-]+)>=([\d.]+),<\S+", requirement)
        assert match is not None, requirement
        found[match[1]] = match[2]
    return {name: found[name] for name in BOUNDED}


@pytest.mark.slow
def test_proposers_and_fetching_work_with_the_oldest_versions_allowed(tmp_path: Path) -> None:
    """The new environment sees all packages of this one, and before them the oldest ones with what these ask for."""
    folder = tmp_path / "oldest"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(packages, "this_one.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wanted = [f"{name}=={oldest}" for name, oldest in lower_bounds().items()]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, *wanted], check=True, timeout=600)
    versions = subprocess.run([python, "-c", CHECK], check=True, capture_output=True, text=True).stdout.split()
    assert all(found.startswith(oldest) for found, oldest in zip(versions, lower_bounds().values(), strict=True))
    tests = ["tests/model/sources", "tests/model/test_hub.py", "--deselect", "tests/model/sources/test_lower_bound.py"]
    run = subprocess.run(
        [python, "-m", "pytest", "-p", "no:cacheprovider", "-q", *tests],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert "skipped" not in run.stdout
