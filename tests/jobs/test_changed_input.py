"""The same command again: on other data, from another folder, with the address spelt otherwise; and ``retry`` then."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.run.record import digest
from tests.conftest import Bucket
from tests.jobs.finished_runs import CLASSES, add_images, files_below, finished, label, refused, told


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a folder ``in`` of three images."""
    monkeypatch.chdir(tmp_path)
    add_images(tmp_path / "in", "b.png", "c.png", "d.png")
    return tmp_path


def write_tar(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = add_images(path.parent.parent / "pixels", "a.png") / "a.png"
    with tarfile.open(path, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = image.stat().st_size
            archive.addfile(info, io.BytesIO(image.read_bytes()))


def plan_line(*arguments: str | Path) -> str:
    """What a dry run says it would do."""
    result = label(*arguments)
    assert result.exit_code == 0, result.output
    return result.stderr.splitlines()[0].partition(": ")[2]


def status(output: str | Path) -> dict[str, int]:
    found = json.loads(told("status", output, "--json").stdout)
    return {name: found[name] for name in ("shards", "shards_done", "shards_pending", "images")}


@pytest.mark.parametrize("name", ["a.png", "e.png"])
@pytest.mark.parametrize("shard_size", [2, 1000])
def test_an_image_added_to_the_folder_is_never_mixed_in(here: Path, name: str, shard_size: int) -> None:
    finished("in", "out", shard_size=shard_size)
    before = files_below(here / "out")
    add_images(here / "in", name)
    flags = ["--shard-size", str(shard_size)]
    line = refused(label("in", "out", *flags))
    assert "the input has changed since the output was made" in line
    assert f"finished shards are cut otherwise, since files were added or removed ({here}/in)" in line
    assert "--incremental labels what is new or changed" in line
    refused(label("in", "out", *flags, "--on-change", "keep"))
    assert files_below(here / "out") == before
    assert status("out")["shards_pending"] == 0
    assert "cut anew" in plan_line("in", "out", *flags, "--incremental")
    shards = 1 if shard_size == 1000 else 2
    for anew in (["--overwrite"], ["--on-change", "restart"]):
        assert plan_line("in", "out", *flags, *anew) == f"{shards} shards"


def test_a_store_s_folder_is_not_mixed_either(here: Path, s3_bucket: Bucket) -> None:
    s3_bucket.upload(here / "in", "in")
    finished(f"{s3_bucket.uri}/in", f"{s3_bucket.uri}/out")
    assert plan_line(f"{s3_bucket.uri}/in/", f"{s3_bucket.uri}/out/") == "0 of 1 shards to do"
    s3_bucket.put("in/e.png", (here / "in" / "b.png").read_bytes())
    assert "1 finished shards are cut otherwise" in refused(label(f"{s3_bucket.uri}/in", f"{s3_bucket.uri}/out"))
    s3_bucket.client.delete_object(Bucket=s3_bucket.name, Key="in/e.png")
    s3_bucket.put("in/d.png", b"another content")
    assert "1 finished shards have other content" in refused(label(f"{s3_bucket.uri}/in", f"{s3_bucket.uri}/out"))


def test_images_put_where_nothing_is_finished_yet_are_simply_labelled(here: Path) -> None:
    finished("in", "out", shard_size=2, limit=1)
    add_images(here / "in", "e.png", "f.png")
    assert plan_line("in", "out", "--shard-size", "2") == "2 of 3 shards to do"


def test_a_replaced_a_new_and_a_vanished_tar_are_told_apart(here: Path) -> None:
    for name in ("0.tar", "1.tar", "2.tar"):
        write_tar(here / "tars" / name, "a.png", "b.png")
    finished("tars/*.tar", "out")
    assert status("out") == {"shards": 3, "shards_done": 3, "shards_pending": 0, "images": 6}
    write_tar(here / "tars" / "1.tar", "c.png")
    os.utime(here / "tars" / "1.tar", ns=(1, 1))
    (here / "tars" / "2.tar").unlink()
    write_tar(here / "tars" / "3.tar", "d.png")
    line = refused(label("tars/*.tar", "out"))
    assert f"1 finished shards have other content ({here}/tars/1.tar)" in line
    assert f"1 finished shards have vanished ({here}/tars/2.tar); 1 shards are not yet labelled" in line
    assert plan_line("tars/*.tar", "out", "--incremental").startswith("1 new, 1 changed, 1 vanished")
    assert plan_line("tars/*.tar", "out", "--on-change", "keep") == "1 of 3 shards to do"


def test_a_new_tar_alone_is_labelled_by_the_same_command(here: Path) -> None:
    write_tar(here / "tars" / "0.tar", "a.png")
    finished("tars/*.tar", "out")
    write_tar(here / "tars" / "1.tar", "b.png")
    assert plan_line("tars/*.tar", "out") == "1 of 2 shards to do"


def test_a_lower_limit_forgets_no_shard(here: Path) -> None:
    for number in range(4):
        write_tar(here / "tars" / f"{number}.tar", "a.png")
    finished("tars/*.tar", "out", limit=3)
    plan = finished("tars/*.tar", "out", limit=1)
    assert (len(plan.tasks), len(plan.shard_ids)) == (0, 3)
    assert status("out") == {"shards": 3, "shards_done": 3, "shards_pending": 0, "images": 3}
    assert json.loads((here / "out" / "summary.json").read_text())["shards"] == 3
    assert plan_line("tars/*.tar", "out") == "1 of 4 shards to do"
    os.utime(here / "tars" / "2.tar", ns=(1, 1))
    assert "1 finished shards have other content" in refused(label("tars/*.tar", "out", "--limit", "1"))


def test_status_of_a_cut_that_is_being_replaced_stays_within_bounds(here: Path) -> None:
    finished("in", "out", shard_size=2)
    run = json.loads((here / "out" / "run.json").read_text())
    (here / "out" / "run.json").write_text(json.dumps({**run, "shards": 1}))
    assert status("out")["shards_pending"] == 0
    assert "(100%), 0 pending" in told("status", "out").stdout


@pytest.mark.parametrize(
    "spelling", ["in", "./in", "in/", "../{name}/in", "in/../in/.", "file://{here}/in", "{here}/in"]
)
def test_spellings_of_one_address_are_one(here: Path, spelling: str) -> None:
    finished("in", "out")
    source = spelling.format(here=here, name=here.name)
    assert plan_line(source, "out") == "0 of 1 shards to do"
    assert plan_line(source, f"file://{here}/out/") == "0 of 1 shards to do"


def test_the_same_words_in_another_folder_are_another_input(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished("in", "out")
    add_images(here / "w2" / "in", "b.png", "c.png", "d.png")
    monkeypatch.chdir(here / "w2")
    assert "input changed" in refused(label("in", here / "out"))
    finished("in", "out")
    monkeypatch.chdir(here)
    assert plan_line("in", "out") == "0 of 1 shards to do"


def as_earlier_versions_wrote(out: Path, **typed: str) -> None:
    """Put relative addresses into run.json, as they were typed."""
    run = json.loads((out / "run.json").read_text())
    run["config"] |= typed
    run["fingerprint"]["input"] = digest(typed["input"])
    (out / "run.json").write_text(json.dumps(run))
    (out / "inventory.json").unlink()


def test_a_run_of_an_earlier_version_goes_on_where_it_was_made(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished("in", "out")
    as_earlier_versions_wrote(here / "out", input="in", output="out")
    assert plan_line("in", "out") == "0 of 1 shards to do"
    assert plan_line(here / "in", "out") == "0 of 1 shards to do"
    finished("in", "out")
    assert json.loads((here / "out" / "run.json").read_text())["config"]["input"] == str(here / "in")
    as_earlier_versions_wrote(here / "out", input="in", output="out")
    add_images(here / "w2" / "in", "b.png", "c.png", "d.png")
    monkeypatch.chdir(here / "w2")
    assert f"1 finished shards have vanished ({here}/in)" in refused(label("in", "../out"))


def test_retry_finds_input_and_classes_from_any_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "names.txt").write_text("cat\ndog\n")
    finished("in", "out", classes="names.txt")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    result = told("retry", "../out", "--dry-run")
    assert (result.exit_code, result.stderr.splitlines()[0].partition(": ")[2]) == (0, "1 shards")


def test_retry_says_what_is_gone_rather_than_do_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished("in", "out", classes=CLASSES)
    as_earlier_versions_wrote(here / "out", input="in", output="out")
    add_images(here / "w2" / "in", "x.png")
    monkeypatch.chdir(here / "w2")
    line = refused(told("retry", "../out", "--dry-run"))
    assert "1 shards with failed images (in-00000000-" in line
    assert f"read from {here}/in, are not in the input {here}/w2/in any more" in line


def test_retry_after_an_image_was_added_asks_for_the_input_to_be_brought_up_to_date(here: Path) -> None:
    finished("in", "out")
    add_images(here / "in", "a.png")
    assert "`maskmill label --incremental` brings the run up to date" in refused(told("retry", "out", "--dry-run"))


def test_retry_reaches_shards_that_a_later_call_without_limit_labelled(here: Path) -> None:
    finished("in", "out", shard_size=1, limit=1)
    finished("in", "out", shard_size=1)
    assert told("retry", "out", "--dry-run").stderr.splitlines()[0].endswith(": 3 shards")


def test_retry_labels_a_replaced_tar_as_a_whole(here: Path) -> None:
    from maskmill.jobs.retry import RetryConfig, stored_config
    from maskmill.pipeline.run.plan import plan_retry

    for name in ("0.tar", "1.tar"):
        write_tar(here / "tars" / name, "a.png", "b.png")
    finished("tars/*.tar", "out")
    write_tar(here / "tars" / "1.tar", "c.png", "d.png", "e.png")
    os.utime(here / "tars" / "1.tar", ns=(1, 1))
    plan = plan_retry(stored_config(RetryConfig(output="out")))
    assert [task.attempts for task in plan.tasks] == [{0: 1, 1: 1}, None]
    assert Output("out").names("errors", ".parquet") == sorted(plan.shard_ids)
