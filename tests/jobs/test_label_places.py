"""Where ``maskmill label`` may write, through the command line: apart from its input, and never over other files."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskmill.pipeline.output.clearing import clear_run
from maskmill.pipeline.output.folder import Output, labels_name
from maskmill.pipeline.output.lease import LEASE
from maskmill.pipeline.run.history import new_attempt, write_attempt
from tests.conftest import Bucket
from tests.jobs.finished_runs import add_images, files_below, finished, label, refused, told


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a folder ``in`` of two images."""
    monkeypatch.chdir(tmp_path)
    add_images(tmp_path / "in", "a.png", "b.png")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("in", "in/out"),
        ("in/", "./in/out/"),
        ("./in", "in/deep/er/out"),
        ("in/../in", "in/out"),
        ("in", "in/x/../out"),
        ("{here}/in", "in/out"),
        ("in", "{here}/in/out"),
        ("file://{here}/in", "in/out"),
        ("file:{here}/in", "in/out"),
        ("in", "file://{here}/in/out"),
        ("link", "in/out"),
        ("in", "link/out"),
        ("in", "in"),
        ("in", "in/."),
        ("in", "link"),
        ("in", "."),
        ("in", "{here}"),
        ("in", ".."),
        ("in/*.png", "in"),
        ("in/{{a,b}}.png", "in"),
        ("in/a.png", "in"),
        ("link/*.png", "in"),
        ("in/**/*.png", "in/out"),
        ("**/*.png", "out"),
        ("*/*.parquet", "out"),
        ("link/*/*", "in/out"),
    ],
)
def test_output_and_input_must_lie_apart_however_they_are_spelt(here: Path, source: str, output: str) -> None:
    (here / "link").symlink_to("in")
    before = files_below(here)
    for flags in ([], ["--overwrite"], ["--incremental"]):
        line = refused(label(source.format(here=here), output.format(here=here), *flags))
        assert "lies inside of" in line or "holds" in line
        assert "choose another place, such as " in line
    assert files_below(here) == before


@pytest.mark.parametrize(
    ("source", "output"),
    [("in", "in-labels"), ("in", "i"), ("in/*.png", "in/out"), ("in/a.png", "in/out"), ("list.txt", "out")],
)
def test_places_that_only_look_alike_are_taken(here: Path, source: str, output: str) -> None:
    (here / "list.txt").write_text("in/a.png\n")
    before = files_below(here)
    result = label(source, output)
    assert result.exit_code == 0, result.output
    assert files_below(here) == before


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("in", "in/out"),
        ("in/", "in/out"),
        ("in", "in/out/"),
        ("in/**", "in/out"),
        ("in/sub/*.png", "in"),
        ("in", ""),
        ("in", "in/"),
    ],
)
def test_in_a_bucket_they_must_lie_apart_too(s3_bucket: Bucket, here: Path, source: str, output: str) -> None:
    s3_bucket.upload(here / "in", "in")
    for scheme in ("s3", "s3a"):
        refused(label(f"{s3_bucket.uri}/{source}", f"{scheme}://{s3_bucket.name}/{output}"))
    assert s3_bucket.keys() == ["in/a.png", "in/b.png"]
    assert label(f"{s3_bucket.uri}/in", f"{s3_bucket.uri}/in-out").exit_code == 0
    assert s3_bucket.keys() == ["in/a.png", "in/b.png"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "in/a.png\nout/x.png\n"),
        ("l.csv", "uri,n\nin/a.png,1\n{here}/out/x.png,2\n"),
        ("l.jsonl", '{{"uri": "in/a.png"}}\n{{"uri": "file://{here}/out/x.png"}}\n'),
        ("l.txt", "in/a.png\nlink/out-x.png\n"),
    ],
)
def test_a_manifest_that_names_files_of_the_output_is_refused(here: Path, name: str, text: str) -> None:
    add_images(here / "out", "x.png", "out-x.png")
    (here / "link").symlink_to("out")
    (here / name).write_text(text.format(here=here))
    assert "which lies in the output" in refused(label(name, "out", "--overwrite"))


def test_a_tar_that_is_a_link_into_the_output_is_refused(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "a.tar").write_bytes(b"")
    (here / "in" / "a.tar").symlink_to("../out/a.tar")
    assert "which lies in the output" in refused(label("in/*.tar", "out", "--overwrite"))


def test_a_folder_that_holds_no_run_is_refused_and_listed(here: Path) -> None:
    add_images(here / "mine", *(f"{number}.png" for number in range(7)))
    (here / "mine" / "labels").mkdir()
    line = refused(label("in", "mine"))
    assert "is not empty and holds no run: 0.png, 1.png, 2.png, 3.png, 4.png and 3 more" in line
    assert label("in", "mine", "--overwrite").exit_code == 0
    assert len(files_below(here / "mine")) == 7


@pytest.mark.parametrize(
    "name", ["run.json", "classes.json", "summary.json", "class_stats.parquet", "stats/a.json", "labels/a.parquet"]
)
def test_files_of_other_origin_under_a_run_s_names_are_never_replaced(here: Path, name: str) -> None:
    path = here / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"mine": 1}')
    for flags in ([], ["--overwrite"]):
        assert name.split("/")[0] in refused(label("in", "mine", *flags))
    assert path.read_text() == '{"mine": 1}'


def test_a_file_where_a_folder_belongs_is_refused(here: Path) -> None:
    finished("in", "out")
    (here / "out" / "report").write_text("mine")
    assert label("in", "out").exit_code == 0
    for path in sorted((here / "out" / "labels").iterdir()):
        path.unlink()
    (here / "out" / "labels").rmdir()
    (here / "out" / "labels").write_text("mine")
    assert "out/labels is a file" in refused(label("in", "out", "--overwrite"))


def test_what_an_attempt_leaves_that_was_killed_at_once_is_no_obstacle(here: Path) -> None:
    output = Output(str(here / "out"))
    attempt = new_attempt("r")
    write_attempt(output, attempt)
    output.write_json(LEASE, {"attempt": attempt.attempt, "renewed_at": 0})
    output.write_json("classes.json", {"classes": []})
    (here / "out" / ".maskmill-abcdefgh.tmp").touch()
    assert label("in", "out").exit_code == 0
    (here / "out" / "runs" / "mine.json").write_text("{}")
    assert "classes.json, runs/" in refused(label("in", "out"))


@pytest.mark.parametrize("store", ["local", "s3"])
def test_starting_anew_removes_what_the_run_wrote_and_nothing_else(
    here: Path, store: str, request: pytest.FixtureRequest
) -> None:
    place = str(here / "out")
    if store == "s3":
        place = f"{request.getfixturevalue('s3_bucket').uri}/out"
    add_images(here / "in", "c.png", "d.png")
    plan = finished("in", place, shard_size=2)
    output, (first, second) = plan.output, plan.shard_ids
    output.remove(f"stats/{second}.json")  # as after a kill in a commit
    output.write_bytes("_staging/20260101T000000Z-00000000/labels/part.parquet", b"")
    theirs = {
        "labels/a.txt": b"0 0.5 0.5",
        "labels/mine.parquet": b"no table",
        f"labels/{first}.txt": b"of the same stem",
        "errors/notes-0123456789ab.parquet": _table(),
        "stats/notes.json": b"{}",
        "notes.tmp": b"mine",
        "labels/.keep": b"",
        "_staging/mine.txt": b"mine",
        "images/a.png": b"mine",
    }
    for name, data in theirs.items():
        output.write_bytes(name, data)
    history = {f"runs/{name}.json" for name in output.names("runs", ".json")}
    clear_run(output)
    assert set(output.all_names()) == {*theirs, *history, "run.json", "classes.json"}
    assert all(output.read_bytes(name) == data for name, data in theirs.items())
    assert not output.exists(labels_name(first))


def test_other_files_among_the_markers_are_no_shards(here: Path) -> None:
    finished("in", "out")
    (here / "out" / "stats" / "notes.json").write_text("{}")
    assert label("in", "out").exit_code == 0
    assert "1 of 1 done" in told("status", "out").stdout
    assert told("retry", "out", "--dry-run").exit_code == 0


def _table() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1]}), sink)
    return sink.getvalue().to_pybytes()


@contextmanager
def full_disk() -> Iterator[None]:
    """Lets no file grow beyond 64 KiB, which to a writer is what a full disk is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("output", ["file", "file/out", "/proc/maskmill/out", "nowhere/out"])
def test_an_output_that_cannot_be_written_to_is_found_before_anything_starts(here: Path, output: str) -> None:
    (here / "file").write_text("mine")
    (here / "nowhere").symlink_to("gone")
    before = files_below(here)
    assert "cannot be written to" in refused(label("in", output))
    assert files_below(here) == before


def test_a_full_disk_is_found_before_anything_starts(here: Path) -> None:
    before = files_below(here)
    with full_disk():
        assert "cannot be written to" in refused(label("in", "out"))
    assert files_below(here) == before


def test_a_bucket_that_is_not_there_is_found_before_anything_starts(s3_bucket: Bucket, here: Path) -> None:
    assert "cannot be written to: there is no such bucket" in refused(label("in", "s3://no-such-bucket-of-ours/out"))


def test_a_web_address_is_no_output(here: Path) -> None:
    assert "cannot be written to" in refused(label("in", "http://127.0.0.1:9/out"))


def test_the_command_itself_ends_with_code_2_and_leaves_the_images(here: Path) -> None:
    """As its own process: the images in ``y/labels`` were once deleted by just this."""
    add_images(here / "y" / "labels", "a.png")
    (here / "y" / "labels" / "a.txt").write_text("0 0.5 0.5 1 1")
    before = files_below(here)
    words = [sys.executable, "-m", "maskmill.jobs.main", "label", "labels", ".", "--classes", "cat", "--overwrite"]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        words, cwd=here / "y", env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert files_below(here) == before


def test_run_json_of_another_version_is_not_taken_for_ours(here: Path) -> None:
    finished("in", "out")
    run = json.loads((here / "out" / "run.json").read_text())
    (here / "out" / "run.json").write_text(json.dumps({**run, "sparkles": 1}))
    assert "written by another version of maskmill (it also has sparkles)" in refused(label("in", "out"))
