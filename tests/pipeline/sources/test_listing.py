"""Every file of an input is taken by its name or counted and named; nothing is left out without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from maskmill.jobs.main import app
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.report.build import write_report
from maskmill.pipeline.sources import list_shards, read_shard
from maskmill.pipeline.sources.kinds import skipped_text
from maskmill.pipeline.sources.listing import list_files
from tests.pipeline.odd_images import encoded
from tests.pipeline.written_run import RunSettings, write_run

PICTURE = Image.new("RGB", (8, 6), (10, 200, 30))
TAKEN = ["a.jpg", "b.jfif", "c.heic", "e.jpe", "f.JIF", "g.avif", "h.jxl", "i.jp2", "sub/j.png"]
SKIPPED = {
    "no ending": 1,
    ".txt": 2,
    ".dng": 1,
    ".seg.png": 1,
    "links to folders": 2,
    "hidden files": 4,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as people have them."""
    root = tmp_path / "in"
    elsewhere = tmp_path / "elsewhere"
    for name in [*TAKEN, "d", "notes.txt", "more.txt", "k.dng", "a.seg.png", ".hidden/x.jpg", ".y.jpg", "Thumbs.db"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "a.jpg").write_bytes(b"fork")
    elsewhere.mkdir()
    (elsewhere / "z.jpg").write_bytes(b"z")
    (root / "link").symlink_to(elsewhere)
    (root / "circle").symlink_to(root)
    (root / "a.jpg").unlink()
    (root / "a.jpg").symlink_to(elsewhere / "z.jpg")
    return root


def test_files_of_a_folder_are_taken_or_counted(folder: Path) -> None:
    listing = list_files(str(folder))
    assert [file.name for file in listing.files] == sorted(TAKEN)
    assert listing.skipped == SKIPPED
    records = [record for shard in list_shards(str(folder)) for record in read_shard(shard)]
    assert records[0].data == b"z"
    assert skipped_text({".a": 2, ".b": 5, ".c": 1, ".d": 1, ".e": 1, ".f": 1000}) == (
        "1,000 x .f, 5 x .b, 2 x .a, 1 x .c, 1 x .d, 1 others"
    )


def test_the_same_in_a_bucket(folder: Path, s3_bucket: Any) -> None:
    s3_bucket.upload(folder, "photos")
    for key in ("photos/", "photos/sub/", "photos/sub_$folder$", "photos_$folder$"):
        s3_bucket.put(key, b"")
    listing = list_files(f"s3://{s3_bucket.name}/photos")
    assert {file.name for file in listing.files} >= set(TAKEN)
    assert listing.skipped["placeholders of folders"] >= 1
    assert listing.skipped["hidden files"] == 4
    assert listing.skipped["no ending"] == 1


def test_an_object_named_like_the_folder_does_not_hide_it(s3_bucket: Any) -> None:
    s3_bucket.put("photos", b"")
    s3_bucket.put("photos/a.jpg", b"a")
    for uri in (f"s3://{s3_bucket.name}/photos", f"s3://{s3_bucket.name}/photos/"):
        (shard,) = list_shards(uri)
        assert [(record.image_id, record.data) for record in read_shard(shard)] == [("a", b"a")]


def test_braces_stand_for_buckets_too(s3_bucket: Any) -> None:
    other = f"{s3_bucket.name}-b"
    s3_bucket.client.create_bucket(Bucket=other)
    s3_bucket.put("x/1.jpg", b"one")
    s3_bucket.client.put_object(Bucket=other, Key="x/2.jpg", Body=b"two")
    for pattern in ("x/*.jpg", "x/{1,2}.jpg"):
        uri = f"s3://{{{s3_bucket.name},{other}}}/{pattern}"
        if pattern == "x/{1,2}.jpg":
            with pytest.raises(UsageError, match=r"2 of the 4 files of .* do not exist"):
                list_shards(uri)
            continue
        (shard,) = list_shards(uri)
        assert sorted(record.data for record in read_shard(shard) if record.data) == [b"one", b"two"]
    for bad in ("s3://test-*/x/*.jpg", "s3://{a,b*}/x/*.jpg"):
        with pytest.raises(UsageError, match="cannot stand for buckets; list them"):
            list_shards(bad)
    with pytest.raises(UsageError):
        list_shards(f"s3://{{{s3_bucket.name},no-such-bucket-anywhere}}/x/*.jpg")


def test_what_is_not_taken_is_told_before_a_run(folder: Path, tmp_path: Path) -> None:
    command = ["label", str(folder), str(tmp_path / "out"), "--classes", "cat,dog", "--dry-run"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "warning: 11 files of the input are not taken, being no images by name: 4 x hidden files" in result.output


def test_what_was_not_taken_is_told_by_status_and_report(tmp_path: Path) -> None:
    out = write_run(tmp_path, RunSettings(images=4))
    output = Output(str(out))
    output.write_json("run.json", {**(output.read_json("run.json") or {}), "skipped": {".heics": 2, "no ending": 1}})
    result = CliRunner().invoke(app, ["status", str(out)])
    assert "skipped  3 files that are no images by name: 2 x .heics, 1 x no ending" in result.stdout
    page = Path(write_report(str(out))).read_text()
    assert "not taken: 2 x .heics, 1 x no ending" in page


def test_every_image_ending_is_decoded_or_named(folder: Path) -> None:
    """A file under any of the endings is judged by its bytes, whatever its name says."""
    from maskmill.pipeline.decoding.decode import decode_image

    for name in TAKEN:
        (folder / name).unlink()
        (folder / name).write_bytes(encoded(PICTURE, "PNG"))
    for record in (record for shard in list_shards(str(folder)) for record in read_shard(shard)):
        assert record.data is not None
        assert decode_image(record.data).shape == (6, 8, 3)
