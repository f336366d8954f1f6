from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.index import PredictionIndex, stem
from pipeline.evaluation.protocol import EvaluationError


@settings(deadline=None)
@given(st.lists(st.lists(st.text(max_size=8), max_size=5), max_size=5))
def test_every_id_is_found_where_it_stands(files: list[list[str]]) -> None:
    flat = [(file, row, name) for file, names in enumerate(files) for row, name in enumerate(names)]
    if len({name for *_, name in flat}) < len(flat):
        with pytest.raises(EvaluationError, match="one prediction an image"):
            PredictionIndex.build(files)
        return
    index = PredictionIndex.from_table(PredictionIndex.build(files).to_table())
    found = index.find([name for *_, name in flat])
    assert [(index.file[i], index.row[i]) for i in found] == [(file, row) for file, row, _ in flat]


def test_whole_ids_come_before_file_names() -> None:
    index = PredictionIndex.build([["a/1", "b/1", "2"]])
    assert index.find(["b/1", "a/1", "2", "nowhere/2", "x/2.png", "3"]).tolist() == [1, 0, 2, 2, 2, -1]


def test_an_ambiguous_file_name_is_an_error() -> None:
    index = PredictionIndex.build([["a/1"], ["b/1"]])
    with pytest.raises(
        EvaluationError, match="'c/1' matches no prediction by its whole id, and 2 by its file name '1'"
    ):
        index.find(["c/1"])


@pytest.mark.parametrize("name, expected", [("a/b/c.jpg", "c"), ("c.tar.PNG", "c.tar"), ("v1.5", "v1.5"), ("c", "c")])
def test_stem(name: str, expected: str) -> None:
    assert stem(name) == expected


def test_an_index_of_nothing() -> None:
    index = PredictionIndex.build([[]])
    assert len(index) == 0
    assert index.find(["a"]).tolist() == [-1]
    assert index.to_table().schema.field("id").type == pa.uint64()
