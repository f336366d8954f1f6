"""A marker says that a shard is done; its small part is read without its sums per class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from maskmill.pipeline.output.folder import Output, errors_name, labels_name
from maskmill.pipeline.output.markers import (
    HEAD_BYTES,
    finished_shards,
    marked_shards,
    marker_bytes,
    read_marker,
    read_marker_heads,
    read_sums,
    read_versions,
    remove_markers,
    remove_shards,
    write_marker,
)
from maskmill.pipeline.output.statistics import ClassSums, RunSums
from maskmill.pipeline.sources.shard import shard_id

FIRST, SECOND = shard_id("in/a.tar"), shard_id("in/b.tar")
MANY_CLASSES = {number: ClassSums(images=1, segments=2, area_bins=Counter({3: 2})) for number in range(300)}


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(str(tmp_path))


def marker(name: str, sums: RunSums) -> dict[str, Any]:
    shard = {"id": name, "uri": f"in/{name}.tar", "version": f"v-{name}", "bytes": 10}
    return {"attempt": "a", "committed_at": 1.0, "shard": shard, "sums": sums.to_dict()}


def two_markers(output: Output) -> None:
    write_marker(output, FIRST, marker(FIRST, RunSums(labelled=3, failed=1, errors=Counter({"read/empty": 1}))))
    write_marker(output, SECOND, marker(SECOND, RunSums(labelled=5, classes=MANY_CLASSES)))


def test_a_head_is_the_marker_without_its_classes(output: Output) -> None:
    two_markers(output)
    assert marker_bytes(output, FIRST) < HEAD_BYTES < marker_bytes(output, SECOND)
    for name, head in zip((FIRST, SECOND), read_marker_heads(output, [FIRST, SECOND]), strict=True):
        whole = read_marker(output, name)
        assert whole is not None
        head["sums"].pop("classes", None)
        whole["sums"].pop("classes")
        assert head == whole


def test_versions_and_sums_are_those_of_the_shards_asked_for(output: Output) -> None:
    two_markers(output)
    assert read_versions(output, [SECOND]) == {SECOND: (f"v-{SECOND}", f"in/{SECOND}.tar")}
    assert read_sums(output, [FIRST]).images == 4
    assert read_sums(output, [FIRST, SECOND]) == RunSums(
        labelled=8, failed=1, errors=Counter({"read/empty": 1}), classes=MANY_CLASSES
    )
    with pytest.raises(FileNotFoundError):
        read_sums(output, ["missing"])


def test_other_files_among_the_markers_are_no_finished_shards(output: Output) -> None:
    two_markers(output)
    output.write_json("stats/notes.json", {})
    assert finished_shards(output) == sorted([FIRST, SECOND])
    assert marked_shards(output) == sorted([FIRST, SECOND, "notes"])


def test_shards_go_with_their_tables_and_markers_without(output: Output) -> None:
    two_markers(output)
    names = [table(name) for name in (FIRST, SECOND) for table in (labels_name, errors_name)]
    for name in names:
        output.write_bytes(name, b"")
    remove_shards(output, [FIRST])
    assert [name for name in names if output.exists(name)] == names[2:]
    assert finished_shards(output) == [SECOND]
    remove_markers(output, [SECOND])
    assert read_marker(output, SECOND) is None
    assert output.exists(names[2])
