"""An image that cannot be read is left out alone, and named; an export reads every image that labelling could read."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from maskmill.jobs.export import export as export_command
from maskmill.jobs.report import report
from maskmill.jobs.show import show
from maskmill.pipeline.export.export import ExportSettings, export_run
from maskmill.pipeline.export.stream import ExportError
from tests.pipeline.labelled_files import encoded, label_files, picture
from tests.pipeline.written_run import RunSettings, read_labels, write_run

app = typer.Typer()
for command in (export_command, report, show):
    app.command(command.__name__)(command)

WITH_IMAGES = ("coco", "panoptic", "png", "coco-stuff", "fiftyone", "yolo", "hf")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def lines_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "left_out.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("file_format", WITH_IMAGES)
def test_the_rest_is_exported_and_the_bad_ones_are_named(tmp_path: Path, file_format: str) -> None:
    out = write_run(tmp_path, RunSettings(images=20, source="folder"))
    rows = read_labels(out)
    Path(rows[3]["uri"]).unlink()
    Path(rows[5]["uri"]).write_bytes(b"no image")
    Path(rows[7]["uri"]).write_bytes(encoded(picture(), "JPEG"))
    result = call("export", out, tmp_path / "to", "--format", file_format, "--images")
    assert result.exit_code == 3
    assert result.stdout.startswith(f"17 images in {tmp_path}/to ")
    assert f"3 images were left out, listed in {tmp_path}/to/left_out.csv" in result.stdout
    assert f"{rows[3]['uri']}: not_found: " in result.stdout.splitlines()[-3]
    found = {(line["uri"], line["shard"], int(line["row"])): line["error_class"] for line in lines_of(tmp_path / "to")}
    classes = {3: "not_found", 5: "not_an_image", 7: "changed"}
    assert found == {(rows[n]["uri"], rows[n]["shard"], rows[n]["row"]): kind for n, kind in classes.items()}
    again = call("export", out, tmp_path / "to", "--format", file_format, "--no-images", "--overwrite")
    assert again.exit_code == 0
    assert lines_of(tmp_path / "to") == [], "what an earlier export said is no longer so"


@pytest.mark.parametrize("source", ["wds", "parquet"])
def test_a_damaged_archive_costs_what_lies_behind_the_damage(tmp_path: Path, source: str) -> None:
    out = write_run(tmp_path, RunSettings(images=40, source=source))
    first = min(path for path in (tmp_path / "images").iterdir() if path.suffix in (".tar", ".parquet"))
    data = first.read_bytes()
    first.write_bytes(data[: len(data) // 2])
    result = export_run(str(out), str(tmp_path / "to"), ExportSettings(file_format="yolo"))
    assert 0 < result.left_out <= 16
    assert result.images + result.left_out == 40
    assert {line["error_class"] for line in lines_of(tmp_path / "to")} == {"damaged_shard"}
    first.unlink()
    gone = export_run(str(out), str(tmp_path / "gone"), ExportSettings(file_format="yolo"))
    assert (gone.images, gone.left_out) == (24, 16)


BROKEN_EXIF = b"Exif\0\0MM\0*\0\0\xff\xff\x01\x12"


@pytest.mark.parametrize(("file_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {})])
def test_broken_metadata_turns_nothing_and_stops_nothing(tmp_path: Path, file_format: str, options: dict) -> None:
    (tmp_path / "in").mkdir()
    data = encoded(picture(), file_format, exif=BROKEN_EXIF, **options)
    (tmp_path / "in" / f"x.{file_format.lower()}").write_bytes(data)
    out = label_files(str(tmp_path / "in"), tmp_path / "out")
    assert call("export", out, tmp_path / "to", "--format", "fiftyone").exit_code == 0
    (stored,) = (path for path in (tmp_path / "to" / "data").rglob("*") if path.is_file())
    assert stored.read_bytes() == data
    assert call("show", out, "x", "--out", tmp_path / "x.png").exit_code == 0


def test_names_that_are_long_or_no_utf_8_are_found_again(tmp_path: Path) -> None:
    names = ["猫" * 80 + ".png", os.fsdecode(b"caf\xe9.png"), r"caf\xe8.png", "plain.png"]
    folder = tmp_path / os.fsdecode(b"d\xe9") / ("犬" * 80)
    folder.mkdir(parents=True)
    for shade, name in enumerate(names):
        (folder / name).write_bytes(encoded(picture(shade=shade)))
    out = label_files(str(tmp_path / os.fsdecode(b"d\xe9")), tmp_path / "out")
    ids = [row["image_id"] for row in read_labels(out)]
    assert any(image_id.endswith(r"caf\xe9") for image_id in ids)
    for file_format in WITH_IMAGES:
        result = call("export", out, tmp_path / file_format, "--format", file_format, "--images")
        assert (result.exit_code, result.stdout[:9]) == (0, "4 images "), result.stdout
    for image_id in ids:
        assert call("show", out, image_id, "--out", tmp_path / "x.png").exit_code == 0
    as_typed = os.fsdecode(("犬" * 80).encode() + b"/caf\xe9")
    assert call("show", out, as_typed, "--out", tmp_path / "x.png").exit_code == 0
    page = tmp_path / "page"
    assert call("report", out, "--to", page).exit_code == 0
    assert "not shown" not in (page / "index.html").read_text()


def test_what_the_runs_own_limit_allows_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(encoded(picture(width=400, height=300), exif=_turned()))
    # Pillow refuses more than twice this, as it does by default beyond 179 million pixels.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr("maskmill.pipeline.results.reader.MAX_PIXELS", 1000)
    out = label_files(str(tmp_path / "in"), tmp_path / "out", max_pixels=200_000)
    assert call("export", out, tmp_path / "to", "--format", "hf").exit_code == 0
    assert call("show", out, "x", "--out", tmp_path / "x.png").exit_code == 0
    assert call("report", out, "--to", tmp_path / "page").exit_code == 0
    assert "not shown" not in (tmp_path / "page" / "index.html").read_text()
    assert "data:image/webp" in (tmp_path / "page" / "index.html").read_text()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_a_store_that_gives_nothing_ends_the_export(tmp_path: Path) -> None:
    out = write_run(tmp_path, RunSettings(images=64))
    for path in (tmp_path / "images").glob("*.tar"):
        path.unlink()
        path.mkdir()  # reading a folder as a file fails for everyone, also for the superuser
    with pytest.raises(ExportError, match="--no-images"):
        export_run(str(out), str(tmp_path / "to"), ExportSettings(file_format="hf"))
