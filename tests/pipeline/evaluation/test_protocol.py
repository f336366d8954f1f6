from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from maskmill.jobs.main import app
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.evaluation.protocol import (
    EvaluationError,
    Protocol,
    bundled_protocols,
    label_table,
    load_protocol,
    match_classes,
    prediction_table,
    protocol_from_data,
)
from maskmill.pipeline.shapes.world import CLASSES, IGNORE_LABEL, classes_document
from tests.pipeline.evaluation.handmade import THREE


def three(**changes: object) -> Protocol:
    return protocol_from_data({**THREE, **changes}, name="three")


@pytest.mark.parametrize(
    "name, seen, unseen, ignore_label",
    [("voc", 15, 5, 255), ("coco-stuff", 156, 15, 255), ("ade20k-full", 572, 275, 65535), ("shapes", 37, 19, 255)],
)
def test_bundled_protocols(name: str, seen: int, unseen: int, ignore_label: int) -> None:
    protocol = load_protocol(name)
    assert len(protocol) == seen + unseen
    assert protocol.groups()["seen"].size == seen
    assert protocol.groups()["unseen"].size == unseen
    assert protocol.ignore_label == ignore_label
    if name != "shapes":
        assert len({entry.raw_id for entry in protocol.classes}) == len(protocol)


def test_bundled_names() -> None:
    names = ["ade20k-150", "ade20k-full", "coco-stuff", "pascal-context-59", "shapes", "voc", "voc-20", "voc-21"]
    assert bundled_protocols() == names


@pytest.mark.parametrize(
    "name, classes, things",
    [("ade20k-150", 150, 100), ("pascal-context-59", 59, 20), ("voc-20", 20, 20), ("voc-21", 21, 20)],
)
def test_protocols_of_open_vocabularies(name: str, classes: int, things: int) -> None:
    protocol = load_protocol(name)
    assert (len(protocol), int(protocol.things.sum())) == (classes, things)
    first = 0 if name == "voc-21" else 1
    assert [entry.raw_id for entry in protocol.classes] == list(range(first, first + classes))
    assert protocol.ignore_label == 255
    assert protocol.groups() == {}  # the protocol does not say what a model has seen


def test_shapes_is_the_world_that_is_drawn() -> None:
    protocol = load_protocol("shapes")
    assert protocol.ignore_label == IGNORE_LABEL
    assert [(e.name, e.seen, e.group, e.thing) for e in protocol.classes] == [
        (e.name, e.seen, e.group, e.kind == "thing") for e in CLASSES
    ]
    sizes = {name: ids.size for name, ids in protocol.groups().items()}
    assert sizes == {"seen": 37, "unseen": 19, "new_shape": 12, "new_combination": 6, "new_stuff": 1}


def test_a_runs_classes_file_serves_as_a_protocol(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(classes_document()))
    assert load_protocol(str(path)).names == load_protocol("shapes").names


def test_yaml_protocol(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("ignore_label: 254\nclasses:\n  - cat\n  - {name: dog, seen: false}\n")
    protocol = load_protocol(str(path), setting="zs3")
    assert protocol.names == ["cat", "dog"]
    assert protocol.evaluated.tolist() == [False, True]


@pytest.mark.parametrize(
    "data, message",
    [
        ([], r"'own': must be a mapping of keys to values, got \[\]"),
        ({"classes": []}, "'own': classes: list should have at least 1 item"),
        ({"ignore_label": 1}, "'own': classes is missing"),
        ({"classes": ["a"], "ignore_lable": 1}, "'own': ignore_lable is no key that is known"),
        ({"classes": ["a"], "title": 3}, "'own': title: "),
        ({"classes": ["a", 3]}, r"'own': classes\[1\]: "),
        ({"classes": ["a", " "]}, r"'own': classes\[1\].name: "),
        ({"classes": ["a", {"name": "b", "raw_id": 70000}]}, r"'own': classes\[1\].raw_id: "),
        ({"classes": ["a", {"name": "b", "raw_id": -1}]}, r"'own': classes\[1\].raw_id: "),
        ({"classes": ["a", {"name": "b", "raw_id": True}]}, r"'own': classes\[1\].raw_id: "),
        ({"classes": [{"name": "a", "class_id": 1}]}, r"classes\[0\].class_id: .* which is 0 and not 1"),
        ({"classes": ["cat", "Cat "]}, "name used twice: 'cat'"),
        ({"classes": [{"name": "cat", "raw": 3}]}, r"classes\[0\].raw is no key that is known"),
        ({"classes": [{"name": "cat", "seen": "yes"}]}, r"classes\[0\].seen: .* got 'yes'"),
        ({"classes": [{"seen": True}]}, r"classes\[0\].name is missing"),
        ({"classes": ["a", "b"], "ignore_label": 1}, "also the id of a class"),
        ({"classes": ["a"], "ignore_label": 70000}, "ignore_label: input should be less than 65536, got 70000"),
        ({"classes": [{"name": "a", "raw_id": 1}, {"name": "b", "raw_id": 1}]}, "raw_id used twice"),
        ({"classes": [{"name": "a", "group": "harmonic"}]}, "no group can be called"),
    ],
)
def test_wrong_protocols_say_what_is_wrong(data: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        protocol_from_data(data, name="own")


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_the_command_names_the_file_and_the_entry(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"own.{ending}"
    path.write_text('{"classes": ["a", {"name": "b", "raw_id": 70000}]}')
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path), str(tmp_path), "--protocol", str(path)])
    assert result.exit_code == 2
    assert f"error: {path}: protocol 'own': classes[1].raw_id: " in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="ade20k-150, ade20k-full, coco-stuff, pascal-context-59, shapes, voc"):
        load_protocol("cityscapes")


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        load_protocol(str(tmp_path / "no.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UsageError, match="is not valid"):
        load_protocol(str(tmp_path / "bad.json"))


def test_evaluation_ids() -> None:
    table = label_table(three(), "evaluation")
    assert table[[0, 1, 2, 255, 65535]].tolist() == [0, 1, 2, 3, 3]
    assert set(table[3:255]) == {4}


def test_a_16_bit_protocol_has_no_255() -> None:
    table = label_table(load_protocol("ade20k-full"), "evaluation")
    assert table[[255, 846, 847, 65535]].tolist() == [255, 846, 848, 847]


def test_raw_ids_ignore_what_is_no_class() -> None:
    voc = load_protocol("voc")
    table = label_table(voc, "raw")
    assert table[[0, 1, 20, 21, 255]].tolist() == [20, 0, 19, 20, 20]
    with pytest.raises(UsageError, match="no raw_id"):
        label_table(load_protocol("shapes"), "raw")


def test_reduce_zero_label() -> None:
    table = label_table(three(), "evaluation", reduce_zero_label=True)
    assert table[[0, 1, 2, 3, 4, 255]].tolist() == [3, 0, 1, 2, 4, 3]
    with pytest.raises(UsageError, match="reduce-zero-label"):
        label_table(three(), "raw", reduce_zero_label=True)


def test_zs3_ignores_seen_pixels_and_refuses_seen_predictions() -> None:
    protocol = protocol_from_data(THREE, name="three", setting="zs3")
    assert label_table(protocol, "evaluation")[[0, 1, 2, 3, 255]].tolist() == [3, 3, 2, 4, 3]
    assert prediction_table(protocol, "evaluation")[[0, 1, 2, 3, 255]].tolist() == [4, 4, 2, 4, 3]
    with pytest.raises(UsageError, match="nothing to compare in zs3"):
        protocol_from_data({"classes": [{"name": "a", "seen": True}]}, name="x", setting="zs3")


def classes(*names: str) -> list[dict[str, object]]:
    return [{"name": name} for name in names]


def test_classes_match_by_name_in_any_order() -> None:
    assert match_classes(three(), classes("dog", "Sky", "cat")).tolist() == [2, 0, 1]


def test_synonyms_match_as_a_whole_then_by_the_first() -> None:
    protocol = protocol_from_data({"classes": ["sofa, couch", "bag", "bag, purse"]}, name="x")
    given = [{"name": "bag, purse"}, {"name": "sofa"}, {"name": "bag"}]
    assert match_classes(protocol, given).tolist() == [2, 0, 1]
    assert match_classes(
        protocol, [{"name": "sofa", "synonyms": ["couch"]}, *classes("bag", "bag, purse")]
    ).tolist() == [
        0,
        1,
        2,
    ]


def test_distractors_are_unlabelled() -> None:
    given = [*classes("sky", "cat"), {"name": "background", "distractor": True}, *classes("dog")]
    assert match_classes(three(), given).tolist() == [0, 1, 3, 2]


@pytest.mark.parametrize(
    "names, setting, messages",
    [
        (("sky", "cat"), "gzs3", ["2 classes instead of 3", "not among the labels' classes: 'dog'"]),
        (("sky", "cat", "wolf"), "gzs3", ["not among the labels' classes: 'dog'", "not in the protocol: 'wolf'"]),
        (("sky", "cat", "dog", "wolf"), "gzs3", ["4 classes instead of 3", "not in the protocol: 'wolf'"]),
        (("dog",), "gzs3", ["--setting zs3"]),
        (("sky", "cat", "dog"), "zs3", ["3 classes instead of 1", "not in the protocol: 'sky', 'cat'"]),
    ],
)
def test_other_classes_are_refused_by_name(names: tuple[str, ...], setting: str, messages: list[str]) -> None:
    protocol = protocol_from_data(THREE, name="three", setting=setting)
    with pytest.raises(EvaluationError) as caught:
        match_classes(protocol, classes(*names))
    for message in messages:
        assert message in str(caught.value)


def test_847_classes_match_themselves() -> None:
    protocol = load_protocol("ade20k-full")
    assert np.array_equal(match_classes(protocol, classes(*protocol.names)), np.arange(847))
