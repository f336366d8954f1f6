"""Folders, manifests and patterns: what they stand for, in which shards, and what is missing or wrong in them."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.sources import ImageRecord, ReadLimits, count_images, list_shards, read_shard
from maskmill.pipeline.sources.patterns import expand_braces
from maskmill.pipeline.sources.shard import shard_id
from maskmill.pipeline.sources.sharding import _runs


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"bytes of {name}".encode())
    return folder


def read(uri: Path | str, **options: object) -> list[ImageRecord]:
    return [
        record for shard in list_shards(str(uri), **options) for record in read_shard(shard, with_segmentation=True)
    ]  # type: ignore[arg-type]


def errors(records: list[ImageRecord]) -> list[str | None]:
    return [record.error and record.error.error_class for record in records]


def test_a_folder_tree_in_shards_sorted_by_name(tmp_path: Path) -> None:
    fill(tmp_path, "b/2.jpg", "b/10.JPG", "a.png", "z.tiff", "c/d/e.webp", "notes.txt", "table.csv", "classes.json")
    fill(tmp_path, ".hidden/x.jpg", "c/._y.jpg", "a.seg.png", "c/d/e.seg.png")
    shards = list_shards(str(tmp_path), shard_size=2)
    assert [s.members for s in shards] == [("a.png", "b/10.JPG"), ("b/2.jpg", "c/d/e.webp"), ("z.tiff",)]
    records = read(tmp_path, shard_size=2)
    assert [(r.image_id, r.row) for r in records] == [("a", 0), ("b/10", 1), ("b/2", 0), ("c/d/e", 1), ("z", 0)]
    assert records[1].data == b"bytes of b/10.JPG"
    assert [r.segmentation for r in records] == [b"bytes of a.seg.png", None, None, b"bytes of c/d/e.seg.png", None]
    assert records[3].uri == f"{tmp_path}/c/d/e.webp"
    assert [count_images(s) for s in shards] == [2, 2, 1]
    assert pickle.loads(pickle.dumps(shards)) == shards


def test_shard_ids_are_stable_and_tell_shards_apart(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    first = list_shards(str(tmp_path), shard_size=2)
    assert [s.shard_id for s in list_shards(f"file://{tmp_path}/", shard_size=2)] == [s.shard_id for s in first]
    (tmp_path / "b.jpg").write_bytes(b"changed")
    changed = list_shards(str(tmp_path), shard_size=2)
    assert [s.shard_id for s in changed] == [s.shard_id for s in first]
    assert [s.version == t.version for s, t in zip(changed, first, strict=True)] == [False, True]
    # With another file in front other images make up both shards, so neither may pass for done.
    fill(tmp_path, "0.jpg")
    more = list_shards(str(tmp_path), shard_size=2)
    assert not {s.shard_id for s in more} & {s.shard_id for s in first}


@pytest.mark.parametrize("uri", ["/a/b c/x.tar", "s3://b/ü&?/*.tar", "https://h/..", "/", "x" * 500, "/a/\udcff.tar"])
def test_shard_ids_are_file_names(uri: str) -> None:
    name = shard_id(uri, ["member"], 12)
    assert name.encode("ascii").replace(b"-", b"").replace(b"_", b"").isalnum()
    assert len(name) < 80
    assert name != shard_id(uri, ["another"], 12)


def test_files_gone_or_unfit_at_reading_are_rows_with_an_error(tmp_path: Path) -> None:
    fill(tmp_path, "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    (tmp_path / "5.jpg").write_bytes(b"")
    (tmp_path / "6.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "7.jpg")
    (tmp_path / "8.jpg").symlink_to("1.jpg")
    (shard,) = list_shards(str(tmp_path))
    (tmp_path / "2.jpg").unlink()
    (tmp_path / "3.jpg").write_bytes(b"x" * 100)
    records = list(read_shard(shard, limits=ReadLimits(max_image_bytes=99)))
    assert errors(records) == [None, "not_found", "too_large", None, "empty", "not_found", "not_a_file", None]
    assert all(r.error is None or r.error.stage == "read" for r in records)
    assert all((r.data is None) != (r.error is None) for r in records)
    assert records[7].data == b"bytes of 1.jpg"


def test_a_folder_that_went_away_is_no_property_of_its_images(tmp_path: Path) -> None:
    fill(tmp_path / "disk", "1.jpg", "2.jpg")
    (shard,) = list_shards(str(tmp_path / "disk"))
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    with pytest.raises(FileNotFoundError, match="is gone"):
        list(read_shard(shard))


@contextmanager
def not_root() -> Iterator[None]:
    """The superuser may read everything; be someone else where the tests run as root."""
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)


def test_permission_is_never_bad_data() -> None:
    with tempfile.TemporaryDirectory() as name:
        private = fill(Path(name), "open.jpg", "secret.jpg")
        manifest = private / "list.txt"
        manifest.write_text("open.jpg\nsecret.jpg\n")
        (shard,) = list_shards(str(manifest))
        # Once as ourselves, which also loads every module while we may.
        assert errors(list(read_shard(shard))) == [None, None]
        private.chmod(0o755)
        (private / "secret.jpg").chmod(0)
        with not_root():
            records = read_shard(shard)
            assert next(records).data == b"bytes of open.jpg"
            with pytest.raises(PermissionError):
                next(records)
        private.chmod(0o600)
        with not_root(), pytest.raises(UsageError, match="no permission to read"):
            list_shards(str(manifest))


def test_one_file_and_odd_names(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos [2020] {x}", "a*b?.jpg", "c,d.jpg")
    assert [r.image_id for r in read(folder)] == ["a*b?", "c,d"]
    assert [r.data for r in read(folder / "c,d.jpg")] == [b"bytes of c,d.jpg"]
    raw = os.fsencode(folder) + b"/\xff.jpg"
    with open(raw, "wb") as stream:
        stream.write(b"odd")
    records = read(folder)
    assert [(r.image_id, r.data) for r in records][2] == ("\\xff", b"odd")


def test_text_manifest(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.jpg", "in/b.png", "c.jpg", "in/a.seg.png")
    lines = [
        "# a comment",
        "in/a.jpg",
        "",
        f"  {tmp_path}/in/b.png ",
        f"file://{tmp_path}/c.jpg",
        "none.jpg",
        "nosuch://x.jpg",
    ]
    manifest = tmp_path / "list.txt"
    manifest.write_text("\n".join([*lines, "bad\0name.jpg"]))
    for size in (1, 2, 5, 1000):
        shards = list_shards(str(manifest), shard_size=size)
        assert sum(count_images(s) for s in shards) == 6
        assert len({s.shard_id for s in shards}) == len(shards) == -(-6 // size)
        records = read(manifest, shard_size=size)
        assert errors(records) == [None, None, None, "not_found", "bad_uri", "bad_uri"]
        assert [r.image_id for r in records[:4]] == ["in/a", f"{tmp_path}/in/b", f"file://{tmp_path}/c", "none"]
        assert [r.data for r in records[:3]] == [b"bytes of in/a.jpg", b"bytes of in/b.png", b"bytes of c.jpg"]
        assert records[0].segmentation == b"bytes of in/a.seg.png"


def test_csv_manifest_with_quotes_spanning_lines(tmp_path: Path) -> None:
    fill(tmp_path, "1.jpg", "2,x.jpg", "3.jpg", "4.jpg")
    manifest = tmp_path / "list.csv"
    manifest.write_text(
        '\ufeffid,caption,url\r\nA,"two\nlines, ""quoted""",1.jpg\r\nB,,"2,x.jpg"\n\n'
        'C,"x\n\ny",3.jpg\nD,,4.jpg\nE,,\nF\n',
        encoding="utf-8",
    )
    for size in (1, 2, 3, 100):
        records = read(manifest, shard_size=size)
        assert [r.image_id for r in records][:4] == list("ABCD")
        assert [r.data for r in records][:4] == [
            f"bytes of {n}".encode() for n in ("1.jpg", "2,x.jpg", "3.jpg", "4.jpg")
        ]
        assert errors(records) == [None] * 4 + ["bad_manifest_entry"] * 2
    with pytest.raises(UsageError, match="no column link; the columns are id, caption, url"):
        list_shards(str(manifest), image_column="link")
    manifest.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"no column uri or url or .*the columns are a, b"):
        list_shards(str(manifest))
    manifest.write_text("url\n" + '"' + "x" * 200_000 + "\n")
    with pytest.raises(UsageError, match="a quoted field begins in the last record and never ends"):
        list_shards(str(manifest))


def test_json_lines_manifest(tmp_path: Path) -> None:
    fill(tmp_path, "1.jpg", "2.jpg")
    lines = [
        json.dumps({"image_url": "1.jpg", "key": 7}),
        json.dumps({"path": "2.jpg"}),
        "{broken",
        "[1]",
        '{"path": 3}',
        '{"a": 1}',
    ]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    for size in (1, 4):
        records = read(manifest, shard_size=size)
        assert [r.image_id for r in records][:2] == ["7", "2"]
        assert errors(records) == [None, None] + ["bad_manifest_entry"] * 4
    manifest.write_text("{broken\n")
    with pytest.raises(UsageError, match="the first entry is of no use: not JSON"):
        list_shards(str(manifest))
    manifest.write_text("\n# nothing\n")
    with pytest.raises(UsageError, match="the manifest is empty"):
        list_shards(str(manifest))


def test_a_changed_manifest_changes_just_the_shards_it_touches(tmp_path: Path) -> None:
    manifest = tmp_path / "list.txt"
    manifest.write_text("".join(f"{n}.jpg\n" for n in range(9)))
    before = list_shards(str(manifest), shard_size=3)
    manifest.write_text("".join(f"{'other' if n == 4 else n}.jpg\n" for n in range(11)))
    after = list_shards(str(manifest), shard_size=3)
    assert [a.shard_id == b.shard_id for a, b in zip(after, before, strict=False)] == [True, False, True]
    assert len(after) == 4


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("x", ["x"]),
        ("a{08..11}b", ["a08b", "a09b", "a10b", "a11b"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{a,b}/{1..2}", ["a/1", "a/2", "b/1", "b/2"]),
        ("{a,b{1..2}}", ["a", "b1", "a", "b2"]),
        ("{x,}.tar", ["x.tar", ".tar"]),
    ],
)
def test_brace_patterns(pattern: str, names: list[str]) -> None:
    assert sorted(expand_braces(pattern)) == sorted(set(names))


@pytest.mark.parametrize("pattern", ["{a", "a}", "{5..2}", "{a}", "{}", "{0..99999999}", "{0..999}{0..999}"])
def test_brace_patterns_that_mean_nothing(pattern: str) -> None:
    with pytest.raises(UsageError):
        expand_braces(pattern)


def test_globs_and_braces_find_files(tmp_path: Path) -> None:
    fill(tmp_path, "train/0.jpg", "train/1.jpg", "val/0.jpg", "val/0.txt", "test/0.jpg")
    assert [r.image_id for r in read(f"{tmp_path}/*/0.jpg")] == ["test/0", "train/0", "val/0"]
    assert [r.image_id for r in read(f"{tmp_path}/{{train,val}}/*.jpg")] == ["train/0", "train/1", "val/0"]
    assert [r.image_id for r in read(f"{tmp_path}/**/1.jpg")] == ["train/1"]
    assert [r.image_id for r in read(f"{tmp_path}/train/{{0..1}}.jpg")] == ["0", "1"]
    with pytest.raises(UsageError, match=r"1 of the 3 files of .* do not exist: .*train/2\.jpg"):
        list_shards(f"{tmp_path}/train/{{0..2}}.jpg")
    with pytest.raises(UsageError, match="nothing matches"):
        list_shards(f"{tmp_path}/*.jpg")


def test_useless_inputs_are_refused_saying_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file or folder: .*/none"):
        list_shards(f"{tmp_path}/none")
    with pytest.raises(UsageError, match="the input is empty; give"):
        list_shards("  ")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty is empty"):
        list_shards(f"{tmp_path}/empty")
    fill(tmp_path / "docs", "a.txt", "b.txt", "c.md", "Makefile")
    with pytest.raises(UsageError, match=r"found 2 x \.txt, 1 x no ending, 1 x \.md\); manifests"):
        list_shards(f"{tmp_path}/docs")
    fill(tmp_path / "both", "a.jpg", "b.tar")
    with pytest.raises(UsageError, match=r"several kinds of input \(1 of kind image, 1 of kind tar\); name one"):
        list_shards(f"{tmp_path}/both")
    with pytest.raises(UsageError, match="must be at least 1"):
        list_shards(f"{tmp_path}/both/*.jpg", shard_size=0)


def test_runs_of_row_groups() -> None:
    assert list(_runs([5, 5, 5, 5], 10)) == [(0, 2), (2, 4)]
    assert list(_runs([5, 5, 5], 10)) == [(0, 3)]
    assert list(_runs([100, 1, 1], 10)) == [(0, 3)]
    assert list(_runs([0, 0], 10)) == []
    assert list(_runs([3], 1)) == [(0, 1)]
    many = list(_runs([1] * 1001, 10))
    assert many[0] == (0, 10)
    assert many[-1] == (990, 1001)


def entries_of(manifest: Path, shard_size: int = 1) -> tuple[list[int], list[str]]:
    """What planning counts per shard, and the ids of the records that reading gives."""
    shards = list_shards(str(manifest), shard_size=shard_size)
    return [count_images(shard) for shard in shards], [r.image_id for shard in shards for r in read_shard(shard)]


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("padding", [0, 2**20 - 40, 2_500_000])
def test_planning_and_reading_count_alike_whatever_the_length_and_end_of_lines(
    tmp_path: Path, suffix: str, end: str, padding: int
) -> None:
    long = "x" * padding
    header, form = {
        ".txt": (f"# {long}{end}", "{name}"),
        ".csv": (f"note,id,url{end}", f'"{long} ""q""{end}{end}",{{id}},{{name}}'),
        ".jsonl": ("", f'{{{{"note": "{long}", "id": "{{id}}", "url": "{{name}}"}}}}'),
    }[suffix]
    names = [f"{number}.jpg" for number in range(5)]
    fill(tmp_path, *names)
    lines = [form.format(name=name, id=name.removesuffix(".jpg")) for name in names]
    manifest = tmp_path / f"list{suffix}"
    # An empty line in the middle, none after the last.
    manifest.write_bytes((header + end.join([*lines[:2], "", *lines[2:]])).encode())
    assert entries_of(manifest) == ([1] * 5, list("01234"))
    assert entries_of(manifest, shard_size=3) == ([3, 2], list("01234"))


def test_lists_that_are_none(tmp_path: Path) -> None:
    manifest = tmp_path / "list.txt"
    manifest.write_bytes("a.jpg\n".encode("utf-16"))
    with pytest.raises(UsageError, match="UTF-16; save it as UTF-8"):
        list_shards(str(manifest))
    manifest.write_bytes(b"x" * (2**26 + 2**21))
    with pytest.raises(UsageError, match="this is no list"):
        list_shards(str(manifest))


def test_json_that_no_reader_can_hold_is_a_row(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    manifest = tmp_path / "list.jsonl"
    uri = '"uri": "a.jpg"'
    manifest.write_text(
        f"{{{uri}}}\n" + "[" * 200_000 + '\n{"uri": "\\ud800.jpg"}\n' + f'{{{uri}, "id": "\\udfff"}}\n'
        '{"uri": "' + "y" * 40_000 + '"}\n'
    )
    records = read(manifest)
    assert errors(records) == [None, "bad_manifest_entry", "bad_uri", None, "bad_manifest_entry"]
    assert all(f"{r.image_id}{r.uri}".encode() for r in records)
    assert len(records[4].error.message) < 200  # type: ignore[union-attr]


@pytest.mark.parametrize("prefix", ["file:", "file://", "file://localhost", "FILE://", "local://"])
def test_file_addresses_of_every_spelling(tmp_path: Path, prefix: str) -> None:
    folder = fill(tmp_path / "a b", "c d%.jpg", "50%20.jpg", "über.jpg", "q?#.jpg")
    spellings = ("c%20d%25.jpg", "c d%.jpg", "50%2520.jpg", "%C3%BCber.jpg", "q%3F%23.jpg", "q?#.jpg")
    base = f"{prefix}{tmp_path}/a%20b"
    manifest = tmp_path / "list.txt"
    # A file of the name as it is written is found too, where there is none of the decoded name.
    literal = f"{prefix}{folder}/50%20.jpg\n"
    manifest.write_text("".join(f"{base}/{name}\n" for name in spellings) + literal, encoding="utf-8")
    wanted = ("c d%.jpg", "c d%.jpg", "50%20.jpg", "über.jpg", "q?#.jpg", "q?#.jpg", "50%20.jpg")
    assert [r.data for r in read(manifest)] == [f"bytes of {name}".encode() for name in wanted]
    assert len(list_shards(f"{base}", shard_size=1)) == len(list_shards(str(folder), shard_size=1)) == 4
