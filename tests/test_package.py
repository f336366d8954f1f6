"""What `pip install` delivers: a wheel with every module, the data files beside them, and the command."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("model", "pipeline", "jobs")
SOURCES = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel built from a copy of the sources, without the network."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(ROOT / name, source / name)
    for package in ("maskmill", *PACKAGES):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored, symlinks=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    [path] = (source / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_every_file_of_the_packages_is_in_it(wheel: zipfile.ZipFile) -> None:
    ours = {
        f"maskmill/{path.relative_to(ROOT).as_posix()}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    } | {"maskmill/__init__.py"}
    delivered = {name for name in wheel.namelist() if not name.startswith("maskmill-")}
    assert ours - delivered == set(), "add these to [tool.setuptools.package-data] in pyproject.toml"
    assert delivered - ours == set()


def test_every_package_it_imports_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [item for name, items in project["optional-dependencies"].items() if name != "dev" for item in items]
    declared = {normalised(re.match(r"[\w.-]+", item).group()) for item in [*project["dependencies"], *extras]}
    # This plugin is not installed for the tests.
    provided = {"pillow_jxl": ["pillow-jxl-plugin"], **packages_distributions()}
    imported = {
        module.split(".")[0]
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for module in modules_of(node)
    }
    foreign = imported - sys.stdlib_module_names - {"maskmill"}
    assert {name for name in foreign if not declared & set(map(normalised, provided[name]))} == set()


def modules_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [str(node.module)] if isinstance(node, ast.ImportFrom) else []


def normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_it_brings_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    [entry_points] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "maskmill = maskmill.jobs.main:app" in wheel.read(entry_points).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
