"""A class list is read in whatever form people have it, or refused with its name; a file is never taken for a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from maskmill.jobs.main import app
from maskmill.model import Vocabulary
from maskmill.model.vocabulary import ClassEntry
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.evaluation.protocol import load_protocol
from maskmill.pipeline.run.class_files import parse_classes
from maskmill.pipeline.run.resolve import with_absolute_addresses
from maskmill.pipeline.training.classes import read_classes
from tests.faults.images import small_jpeg

NAMES = ("chat", "éléphant", "猫")
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("name", ["coco.names", "classes", "classes.txt", "my.classes", "with, comma.txt", "猫.lst"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_existing_file_is_read(tmp_path: Path, name: str, encoding: str, newline: str) -> None:
    path = tmp_path / name
    path.write_bytes(newline.join([*NAMES, ""]).encode(encoding))
    assert parse_classes(str(path)).names == NAMES


def test_a_file_beside_the_command_is_read_though_it_has_no_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "classes").write_text("cat\ndog\n")
    monkeypatch.chdir(tmp_path)
    assert parse_classes("classes").names == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "text", "entries"),
    [
        ("a.csv", "cat\ndog\n", [ClassEntry(name="cat"), ClassEntry(name="dog")]),
        ("a.csv", '"sofa, couch",settee\ndog,,\n', [ClassEntry(name="sofa, couch", synonyms=("settee",)), "dog"]),
        ("a.tsv", "cat\tkitty\n\ndog\n", [ClassEntry(name="cat", synonyms=("kitty",)), "dog"]),
        ("a.csv", 'id,Name,synonyms\n1,cat,"kitty, kitten"\n2,dog,\n', [("cat", ("kitty", "kitten")), "dog"]),
    ],
)
def test_tables_hold_a_class_in_each_row(tmp_path: Path, name: str, text: str, entries: list[Any]) -> None:
    (tmp_path / name).write_text(text)
    wanted = [ClassEntry(name=each[0], synonyms=each[1]) if isinstance(each, tuple) else each for each in entries]
    assert parse_classes(str(tmp_path / name)) == Vocabulary(wanted)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "chat\néléphant\n".encode("latin-1"), r"a\.txt: byte 5 \(0xe9, line 2\) is not UTF-8"),
        ("a.names", "chat\n".encode("utf-16-le"), r"a\.names: line 1 holds a zero byte"),
        ("a.json", '["é"]'.encode("latin-1"), r"a\.json: byte 2 \(0xe9, line 1\)"),
        ("a.json", b'["a",\n]', r"a\.json is not valid JSON: .*line 2"),
        ("a.yaml", b"classes: [a\n", r"a\.yaml is not valid YAML: .*line 2"),
        ("a.csv", b"1,cat\n2,dog\n", r"a\.csv: the first column holds numbers"),
        ("a.csv", b"cat\n,dog\n", r"a\.csv: row 2 has no name"),
        ("a.jpg", small_jpeg(1), r"a\.jpg: byte 0 \(0xff, line 1\)"),
        ("a.txt", b"# nothing\n", r"a\.txt: .*at least one class"),
    ],
)
def test_what_cannot_be_read_is_refused_with_file_and_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        parse_classes(str(tmp_path / name))


@pytest.mark.parametrize("classes", ["classes.txt", "./nothing", "/no/such", "~/c", "x.csv", "coco.names", "cat,a.txt"])
def test_a_file_that_is_not_there_is_no_class(classes: str) -> None:
    with pytest.raises(UsageError, match=r"there is no(ne| file)"):
        parse_classes(classes)


def test_a_file_inside_of_a_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "names"
    path.write_text("cat\n")
    with pytest.raises(UsageError, match="is a file; give one file alone"):
        parse_classes(f"dog,{path}")
    with pytest.raises(UsageError, match="is a folder"):
        parse_classes(str(tmp_path))


@pytest.mark.parametrize("classes", ["cat", "black/white", "St. Bernard, dog", "3.5 mm jack", "R2.D2", "猫,犬"])
def test_names_stay_names(classes: str) -> None:
    assert parse_classes(classes).names == tuple(name.strip() for name in classes.split(","))


def test_a_folder_may_bear_the_name_of_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat").mkdir()
    config = with_absolute_addresses(LabelConfig(input="in", output="out", classes="cat"))
    assert parse_classes(config.classes).names == ("cat",)


def test_a_class_file_in_a_bucket(s3_bucket: Any) -> None:
    s3_bucket.put("lists/coco.names", "chat\r\n猫\r\n".encode("utf-8-sig"))
    assert parse_classes(f"{s3_bucket.uri}/lists/coco.names").names == ("chat", "猫")
    with pytest.raises(UsageError, match=r"there is no file s3://.*/lists/none\.names"):
        parse_classes(f"{s3_bucket.uri}/lists/none.names")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_other_files_that_people_write_are_read_alike(tmp_path: Path, encoding: str) -> None:
    data = {"classes": [{"name": name, "seen": True} for name in NAMES], "ignore_label": 255}
    path = tmp_path / "classes.yaml"
    path.write_bytes(yaml.safe_dump(data, allow_unicode=True).encode(encoding))
    assert load_protocol(str(path)).names == list(NAMES)
    assert read_classes(str(path)).vocabulary.names == NAMES


@pytest.mark.parametrize("what", ["--classes", "--config"])
def test_the_command_names_the_file_and_the_byte(tmp_path: Path, what: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes("classes: éléphant\n".encode("latin-1"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(small_jpeg(1))
    end = CliRunner().invoke(app, ["label", str(tmp_path / "in"), str(tmp_path / "out"), what, str(path)])
    assert end.exit_code == 2
    assert "bad.txt: byte 9 (0xe9, line 1) is not UTF-8" in end.stderr
    assert not (tmp_path / "out").exists()


def test_half_a_character_is_no_class_name() -> None:
    with pytest.raises(ValueError, match=r"'\\ud83d' holds half"):
        ClassEntry(name="\ud83d")


def test_a_bundled_protocol_is_a_list_of_classes() -> None:
    vocabulary = parse_classes("protocol:voc-21")
    assert len(vocabulary) == 21
    assert vocabulary.entries[1].names == ("aeroplane", "airplane", "aeroplanes", "airplanes")
    assert [entry.thing for entry in vocabulary.entries[:2]] == [False, True]
    assert parse_classes("protocol:voc").seen_flags.count(True) == 15
    with pytest.raises(UsageError, match=r"unknown protocol 'voc-22'. Choose from: ade20k-150, ade20k-full"):
        parse_classes("protocol:voc-22")


def test_things_and_stuff_are_kept_with_the_classes() -> None:
    vocabulary = Vocabulary.from_data([{"name": "dog", "thing": True}, {"name": "sky", "thing": False}, "cow"])
    assert [entry.thing for entry in vocabulary] == [True, False, None]
    assert Vocabulary.from_data(vocabulary.to_dict()) == vocabulary
    with pytest.raises(ValueError, match="thing must be true or false, got 'yes'"):
        Vocabulary.from_data([{"name": "dog", "thing": "yes"}])
