from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from maskmill.model.vocabulary import ClassEntry, Vocabulary


def test_commas_separate_synonyms_and_the_full_text_stays_the_name() -> None:
    vocabulary = Vocabulary(["sofa, couch", "grass"])
    assert vocabulary.names == ("sofa, couch", "grass")
    assert vocabulary.entries[0].names == ("sofa", "couch")


def test_sentences_put_every_name_into_every_template() -> None:
    entry = ClassEntry(name="sofa, couch", synonyms=("settee",))
    assert entry.sentences(["a {}.", "the {}"]) == [
        "a sofa.", "a couch.", "a settee.", "the sofa", "the couch", "the settee",
    ]  # fmt: skip


def test_own_prompts_replace_the_templates() -> None:
    entry = ClassEntry(name="field, meadow", prompts=("a field seen from above", "an aerial view of a {}"))
    assert entry.sentences(["a {}."]) == [
        "a field seen from above", "an aerial view of a field", "an aerial view of a meadow",
    ]  # fmt: skip


@pytest.mark.parametrize("names", [["cow", "cow"], ["cow", "Cow "], ["a, b", "b, a"], ["red  circle", "red circle"]])
def test_duplicate_classes_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="Duplicate class"):
        Vocabulary(names)


def test_classes_may_share_a_synonym() -> None:
    assert len(Vocabulary(["bag, handbag", "bag, sack"])) == 2


@pytest.mark.parametrize("names", [[""], [" "], ["cow,"], ["cow, ,calf"], ["cow, cow"]])
def test_empty_and_repeated_names_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"empty name|same name twice"):
        Vocabulary(names)


def test_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one class"):
        Vocabulary([])


def test_seen_by_name_synonym_or_flag() -> None:
    names = ["person", "sofa, couch", "cow"]
    assert Vocabulary(names, seen=["Person", "couch"]).seen_flags == (True, True, False)
    assert Vocabulary(names, seen=[False, True, False]).seen_flags == (False, True, False)
    assert Vocabulary(names, seen=[]).seen_flags == (False, False, False)


def test_without_seen_every_class_counts_as_unseen() -> None:
    assert Vocabulary(["person", "cow"]).seen_flags == (False, False)


def test_unknown_seen_name_is_refused_with_names_like_it() -> None:
    with pytest.raises(ValueError, match=r"'persn' is not a class.*person"):
        Vocabulary(["person", "cow"], seen=["persn"])


def test_wrong_number_of_seen_flags_is_refused() -> None:
    with pytest.raises(ValueError, match="2 flags for 3 classes"):
        Vocabulary(["a", "b", "c"], seen=[True, False])


def test_ambiguous_seen_synonym_is_refused() -> None:
    with pytest.raises(ValueError, match="synonym of several classes"):
        Vocabulary(["bag, handbag", "bag, sack"], seen=["bag"])


def test_training_classes_fill_in_only_what_nobody_said() -> None:
    entries = [ClassEntry(name="couch"), ClassEntry(name="cow", seen=False), ClassEntry(name="unicorn")]
    filled = Vocabulary(entries).with_training_classes(["sofa, couch", "cow"])
    assert [entry.seen for entry in filled] == [True, False, False]


def test_text_file_skips_blank_lines_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\ufeff# things\nperson\n\n  sofa, couch \n", encoding="utf-8")
    assert Vocabulary.from_file(path).names == ("person", "sofa, couch")


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_structured_file(tmp_path: Path, suffix: str) -> None:
    classes = [
        "person",
        {"name": "sofa", "synonyms": ["couch"], "seen": True, "colour": [1, 2, 3]},
        {"name": "background", "distractor": True, "prompts": "nothing at all"},
    ]
    path = tmp_path / f"classes.{suffix}"
    path.write_text(json.dumps({"classes": classes, "ignore_label": 255}))  # JSON is YAML, too
    vocabulary = Vocabulary.from_file(path)
    assert vocabulary.entries[1] == ClassEntry(name="sofa", synonyms=("couch",), seen=True, colour=(1, 2, 3))
    assert vocabulary.distractor_flags == (False, False, True)
    assert vocabulary.entries[2].prompts == ("nothing at all",)


def test_unknown_key_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"Unknown class key color.*colour"):
        Vocabulary.from_data([{"name": "cow", "color": [0, 0, 0]}])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"names": ["cow"]}, "the key 'classes'"),
        ("cow", "list of classes"),
        ([{"seen": True}], "without a name"),
        ([3], "a name or a mapping"),
        ([{"name": "cow", "colour": [0, 0, 256]}], r"0\.\.255"),
        ([{"name": "cow", "seen": "yes"}], "true or false"),
        ([{"name": "cow", "synonyms": 3}], "list of texts"),
        ([{"name": False}], "must be text"),
    ],
)
def test_malformed_data_is_refused(data: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_data(data)


def test_malformed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"classes\.json is not valid JSON"):
        Vocabulary.from_file(path)


def test_round_trip_through_json_and_pickle() -> None:
    vocabulary = Vocabulary([ClassEntry(name="a, b", synonyms=("c",), seen=False, group="new", distractor=True), "d"])
    assert Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict()))) == vocabulary
    assert pickle.loads(pickle.dumps(vocabulary)) == vocabulary
