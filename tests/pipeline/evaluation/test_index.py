from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.pipeline.evaluation.index import AMBIGUOUS, MISSING, PredictionIndex, Wanted, stem


def find(index: PredictionIndex, *names: str) -> list[int]:
    return index.find([Wanted((name,)) for name in names]).tolist()


@settings(deadline=None)
@given(st.lists(st.lists(st.text(max_size=8), max_size=5), max_size=5))
def test_every_id_is_found_where_it_stands(files: list[list[str]]) -> None:
    flat = [(file, row, name) for file, names in enumerate(files) for row, name in enumerate(names)]
    uses = Counter(name for *_, name in flat)
    index = PredictionIndex.from_table(PredictionIndex.build(files).to_table())
    found = find(index, *(name for *_, name in flat))
    for position, (file, row, name) in zip(found, flat, strict=True):
        if uses[name] > 1:
            assert position == AMBIGUOUS
        else:
            assert (index.file[position], index.row[position]) == (file, row)
    repeated = [number for number, (*_, name) in enumerate(flat) if uses[name] > 1]
    assert index.repeated_ids().tolist() == repeated


def test_whole_ids_come_before_file_names() -> None:
    index = PredictionIndex.build([["a/1", "b/1", "2"]])
    assert find(index, "b/1", "a/1", "2", "nowhere/2", "x/2.png", "3") == [1, 0, 2, 2, 2, MISSING]


def test_an_ambiguous_file_name_is_told() -> None:
    assert find(PredictionIndex.build([["a/1"], ["b/1"]]), "c/1", "a/1") == [AMBIGUOUS, 0]


def test_further_names_are_tried_in_order() -> None:
    index = PredictionIndex.build([["a", "b"]])
    assert index.find([Wanted(("x", "b")), Wanted(("b", "a")), Wanted(("x", "y"))]).tolist() == [1, 1, MISSING]


@pytest.mark.parametrize("name, expected", [("a/b/c.jpg", "c"), ("c.tar.PNG", "c.tar"), ("v1.5", "v1.5"), ("c", "c")])
def test_stem(name: str, expected: str) -> None:
    assert stem(name) == expected


def test_an_index_of_nothing() -> None:
    index = PredictionIndex.build([[]])
    assert len(index) == 0
    assert find(index, "a") == [MISSING]
    assert index.to_table().schema.field("id").type == pa.uint64()
