"""``maskmill report``, ``show``, ``review`` and ``export`` on a run: what they write and what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from maskmill.jobs.export import export
from maskmill.jobs.report import report
from maskmill.jobs.review import review
from maskmill.jobs.show import show
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.export.export import FORMATS
from maskmill.pipeline.results.review import REVIEW
from tests.pipeline.written_run import RunSettings, read_labels, write_run

app = typer.Typer()
for command in (export, report, review, show):
    app.command()(command)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), RunSettings(images=30))


def told_by(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_report_names_the_page(out: Path, tmp_path: Path) -> None:
    assert told_by("report", str(out)).startswith(f"{out}/report/index.html")
    told_by("report", str(out), "--to", str(tmp_path), "--price-per-hour", "3.6")
    assert "40.00 for a million images" in (tmp_path / "index.html").read_text()


def test_show_draws_and_lists_the_segments(out: Path, tmp_path: Path) -> None:
    row = read_labels(out)[4]
    picture = tmp_path / "picture.png"
    told = told_by("show", str(out), row["image_id"], "--out", str(picture))
    assert all(name in told for name in row["class_names"])
    with Image.open(picture) as image:
        assert image.width > image.height > 128


def test_show_names_the_picture_after_the_image(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told_by("show", str(out), "000003")
    assert [path.name for path in tmp_path.iterdir()] == ["000003.overlay.png"]


@pytest.mark.parametrize("name", ["queue.parquet", "queue.jsonl"])
def test_review_writes_the_queue(out: Path, tmp_path: Path, name: str) -> None:
    told = told_by("review", str(out), "--out", str(tmp_path / name), "--per-reason", "5")
    assert "5 x low_score" in told
    if name.endswith(".parquet"):
        assert pq.read_schema(tmp_path / name).remove_metadata() == REVIEW
        rows = pq.read_table(tmp_path / name).to_pylist()
    else:
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    assert [row["rank"] for row in rows if row["reason"] == "low_score"] == [1, 2, 3, 4, 5]


def test_review_refuses_formats_it_does_not_write(out: Path) -> None:
    with pytest.raises(UsageError, match=r"\.parquet or \.jsonl"):
        told_by("review", str(out), "--out", "queue.csv")


@pytest.mark.parametrize("file_format", FORMATS)
def test_export_counts_the_images(out: Path, tmp_path: Path, file_format: str) -> None:
    told = told_by("export", str(out), str(tmp_path / "to"), "--format", file_format)
    assert told.startswith(f"30 images in {tmp_path}/to ({file_format}, ")
    assert any((tmp_path / "to").iterdir())


def test_the_help_names_every_format() -> None:
    told = CliRunner().invoke(app, ["export", "--help"], env={"COLUMNS": "200"}).stdout
    assert all(name in told for name in FORMATS)
