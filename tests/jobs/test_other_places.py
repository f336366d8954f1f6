"""Where the commands around ``label`` may write: nothing of other origin is replaced, and nothing put among images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from maskmill.pipeline.evaluation.place import remove_leftovers
from maskmill.pipeline.evaluation.unit import IMAGES, IMAGES_SCHEMA, PARTS
from maskmill.pipeline.output.folder import Output
from tests.conftest import Bucket
from tests.jobs.finished_runs import add_images, files_below, refused, told
from tests.jobs.test_label_places import full_disk
from tests.pipeline.written_run import RunSettings, read_labels, write_run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), RunSettings(images=6, source="folder")).parent


@pytest.fixture
def here(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a run ``out`` over ``images``."""
    monkeypatch.chdir(written)
    return written


def commands(place: str) -> list[list[str]]:
    """Every command that writes, told to write to ``place``."""
    return [
        ["export", "out", place, "--format", "yolo"],
        ["export", "out", place, "--format", "coco", "--overwrite"],
        ["report", "out", "--to", place],
        ["review", "out", "--out", f"{place}/queue.parquet"],
        ["show", "out", "000003", "--out", f"{place}/picture.png"],
    ]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize(
    "place", ["out/labels", "./out/stats/x", "out/run.json", "images", "images/new", "file://{here}/images/new"]
)
def test_the_run_s_files_and_images_are_no_place_to_write_to(here: Path, place: str, number: int) -> None:
    before = files_below(here)
    if number == 4 and place.startswith("file:"):
        return  # --out of show is a path
    refused(told(*commands(place.format(here=here))[number]))
    assert files_below(here) == before


@pytest.mark.parametrize("place", ["out", ".", "..", "{here}"])
def test_an_export_goes_to_a_place_of_its_own(here: Path, place: str) -> None:
    line = refused(told("export", "out", place.format(here=here), "--format", "yolo", "--overwrite"))
    assert "holds the run" in line or "holds the input" in line


@pytest.mark.parametrize("words", [["status"], ["report"], ["retry"], ["export", "x", "--format", "coco"]])
def test_a_file_in_place_of_a_run_is_one_line(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "file").write_text("mine")
    line = refused(told(words[0], tmp_path / "file", *words[1:]))
    assert "holds no run" in line or "cannot be written to" in line


def test_a_picture_is_not_put_among_the_images_by_default(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here / "images")
    assert "the picture (--out) '000003.overlay.png' lies inside" in refused(told("show", "../out", "000003"))


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("place", ["{tmp}/file", "{tmp}/file/x", "/proc/maskmill/x", "s3://no-such-bucket-of-ours/x"])
def test_a_place_that_cannot_be_written_to_is_one_line(
    here: Path, tmp_path: Path, s3_bucket: Bucket, place: str, number: int
) -> None:
    if number == 4 and place.startswith("s3:"):
        return  # --out of show is a path
    (tmp_path / "file").write_text("mine")
    assert "cannot be written to" in refused(told(*commands(place.format(tmp=tmp_path))[number]))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["{tmp}/file", "/proc/maskmill/x"])
def test_drawings_trainings_and_folders_for_manifests_need_a_writable_place(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "job.yaml").write_text("input: a\noutput: b\nclasses: c\n")
    place = place.format(tmp=tmp_path)
    data = add_images(tmp_path / "data", "a.png")
    training = ["--data", str(data), "--classes", "c.json", "--set", "clip=c", "--out", place]
    for words in (
        ["shapes", place, "--images", "1"],
        ["demo", place, "--images", "1"],
        ["train", "grouping", *training],
        ["schedule", str(tmp_path / "job.yaml"), f"{place}/x"],
    ):
        assert "cannot be written to" in refused(told(*words))


def test_a_full_disk_is_one_line(here: Path, tmp_path: Path) -> None:
    with full_disk():
        for words in [*commands(str(tmp_path / "new")), ["shapes", str(tmp_path / "d"), "--images", "1"]]:
            assert "cannot be written to" in refused(told(*words))
    assert not files_below(tmp_path)


def test_exports_replace_only_what_exports_wrote(here: Path, tmp_path: Path) -> None:
    place = tmp_path / "e"
    place.mkdir()
    (place / "categories.json").write_text("mine")
    first = ["export", "out", str(place), "--format", "png"]
    assert "is not empty (categories.json)" in refused(told(*first))
    name = sorted(files_below(tmp_path / "e"))[0]
    assert told("export", "out", str(tmp_path / "clean"), "--format", "png").exit_code == 0
    (place / name).unlink()
    for taken in sorted(files_below(tmp_path / "clean") - {".maskmill.json"})[:1]:
        (place / taken).parent.mkdir(parents=True, exist_ok=True)
        (place / taken).write_text("mine")
        assert f"{taken} is there and was not written by `maskmill export`" in refused(told(*first, "--overwrite"))
        assert (place / taken).read_text() == "mine"
        (place / taken).unlink()
    (tmp_path / "clean" / "notes.txt").write_text("mine")
    before = files_below(tmp_path / "clean")
    assert told("export", "out", str(tmp_path / "clean"), "--format", "png", "--overwrite").exit_code == 0
    assert files_below(tmp_path / "clean") == before


def test_a_page_of_other_origin_is_not_replaced(here: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<h1>mine</h1>")
    assert "is no report of maskmill and is not replaced" in refused(told("report", "out", "--to", str(tmp_path)))
    assert (tmp_path / "index.html").read_text() == "<h1>mine</h1>"
    (tmp_path / "index.html").unlink()
    for _ in range(2):
        assert told("report", "out", "--to", str(tmp_path)).exit_code == 0


def test_drawings_replace_only_drawings(tmp_path: Path) -> None:
    words = ["shapes", str(tmp_path), "--images", "2", "--format", "folder"]
    add_images(tmp_path, "000001.jpg")
    before = (tmp_path / "000001.jpg").read_bytes()
    assert "are not known to be drawn ones" in refused(told(*words))
    assert (tmp_path / "000001.jpg").read_bytes() == before
    (tmp_path / "000001.jpg").unlink()
    assert told(*words).exit_code == 0
    (tmp_path / "classes.json").unlink()  # as after a kill
    assert told(*words).exit_code == 0
    (tmp_path / ".maskmill.json").unlink()  # as earlier versions left them
    assert told(*words).exit_code == 0


def test_a_demo_does_not_paint_over_a_picture(tmp_path: Path) -> None:
    (tmp_path / "overlay.png").write_text("mine")
    assert "was not made by this command" in refused(told("demo", tmp_path))
    assert files_below(tmp_path) == {"overlay.png"}


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoint.pt", "zegformer.json", "clip.safetensors"])
def test_a_training_replaces_only_a_training_s_files(tmp_path: Path, name: str) -> None:
    data = add_images(tmp_path / "data", "a.png")
    out = tmp_path / "weights"
    out.mkdir()
    (out / name).write_text('{"mine": 1}\n')
    words = ["train", "grouping", "--data", str(data), "--classes", "c.json", "--set", "clip=c", "--workers", "0"]
    assert f"holds files of other origin under names that a training uses: {name}" in refused(
        told(*words, "--out", out)
    )
    assert "lies inside of --data" in refused(told(*words, "--out", data / "weights"))
    assert (out / name).read_text() == '{"mine": 1}\n'
    assert files_below(data) == {"a.png"}


def evaluate(here: Path, *words: str | Path) -> list[str]:
    return ["evaluate", "out", "images", "--protocol", "shapes", "--workers", "1", *map(str, words)]


@pytest.mark.parametrize("name", ["summary.md", "per_class.parquet", "evaluation.json", "images/mine.parquet"])
def test_an_evaluation_replaces_and_removes_only_an_evaluation_s_files(here: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"mine": 1}')
    line = refused(told(*evaluate(here, "--results", tmp_path)))
    assert f"holds files of other origin under names that an evaluation uses: {name.split('/')[0]}" in line
    assert (tmp_path / name).read_text() == '{"mine": 1}'


@pytest.mark.parametrize("place", ["images", "images/x", "out/labels", "out/stats/x"])
def test_an_evaluation_s_results_lie_apart_from_what_it_reads(here: Path, place: str) -> None:
    assert "which is read" in refused(told(*evaluate(here, "--results", place)))


def test_leftovers_of_an_evaluation_are_told_from_other_files(tmp_path: Path) -> None:
    results = Output(str(tmp_path))
    results.write_json(f"{PARTS}/old.json", {"fingerprint": "f", "matched": [], "sums": {}})
    results.write_table(f"{IMAGES}/old.parquet", IMAGES_SCHEMA.empty_table())
    theirs = {f"{PARTS}/mine.json", f"{IMAGES}/mine.parquet", f"{IMAGES}/mine.png"}
    for name in theirs:
        results.write_bytes(name, b"{}")
    remove_leftovers(results, set())
    assert files_below(tmp_path) == theirs


def test_addresses_with_a_store_s_other_name_are_the_same_place(s3_bucket: Bucket, here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "out", tmp_path / "out")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    run["config"]["input"] = f"{s3_bucket.uri}/in"
    (tmp_path / "out" / "run.json").write_text(json.dumps(run))
    assert read_labels(tmp_path / "out")
    refused(told("export", tmp_path / "out", f"s3a://{s3_bucket.name}/in/coco", "--format", "coco"))
    assert not s3_bucket.keys()
