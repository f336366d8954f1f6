"""Runs to export, written once for all tests of formats: one of semantic segments, one of instances, an empty one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from maskmill.pipeline.export.export import ExportSettings, export_run
from tests.pipeline.written_run import RunSettings, write_run

Export = Callable[..., Path]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run with some failed images."""
    return write_run(tmp_path_factory.mktemp("export"), RunSettings(images=36, failed=9))


@pytest.fixture(scope="session")
def query_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run with --segments query."""
    return write_run(tmp_path_factory.mktemp("export-query"), RunSettings(images=10, segments="query"))


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """Exports a run into a new folder and returns the folder."""

    def call(out: Path, file_format: str, **settings: object) -> Path:
        destination = tmp_path / file_format
        export_run(str(out), str(destination), ExportSettings(file_format=file_format, **settings))  # type: ignore[arg-type]
        return destination

    return call


@pytest.fixture(scope="session")
def blank_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that found nothing."""
    return write_run(tmp_path_factory.mktemp("export-blank"), RunSettings(images=4, blank=True))
