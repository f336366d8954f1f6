"""A commit holds each row exactly once, in input order, and the marker comes last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskmill.pipeline.output.clearing import remove_orphans
from maskmill.pipeline.output.commit import CommitError, CommitRequest, commit_shard
from maskmill.pipeline.output.folder import Output, part_name
from maskmill.pipeline.output.schema import ERRORS, LABELS
from maskmill.pipeline.sources import Shard

SHARD = Shard(shard_id="s-1", kind="tar", uri="in/s.tar", location="in/s.tar", size_bytes=10, version="v1")


def label(row: int, name: str = "cat") -> dict[str, Any]:
    lists = {field.name: [] for field in LABELS if pa.types.is_list(field.type)}
    return {
        **lists,
        "image_id": str(row),
        "uri": "in/s.tar",
        "shard": "s-1",
        "row": row,
        "width": 10,
        "height": 10,
        "coverage": 0.0,
        "class_ids": [0],
        "class_names": [name],
        "withheld_segments": 0,
        "withheld_pixels": 0,
        **{key: [1] for key in ("scores", "areas", "stability", "agreement", "objectness", "margin", "components")},
        "boxes": [[0, 0, 1, 1]],
        "rles": ["x"],
    }


def error(row: int, error_class: str = "truncated", attempts: int = 1) -> dict[str, Any]:
    texts = {"stage": "decode", "error_class": error_class, "error_message": "cut short"}
    return {"image_id": str(row), "uri": "in/s.tar", "shard": "s-1", "row": row, "attempts": attempts, **texts}


def stage(
    output: Output, part: str, labels: list[int], errors: tuple[int, ...] = (), name: str = "cat", attempt: str = "a1"
) -> None:
    if labels:
        table = pa.Table.from_pylist([label(row, name) for row in labels], schema=LABELS)
        output.write_table(part_name(attempt, "labels", part), table)
    if errors:
        table = pa.Table.from_pylist([error(row) for row in errors], schema=ERRORS)
        output.write_table(part_name(attempt, "errors", part), table)


def request(rows: int, *parts: str, attempt: str = "a1", relabelled: tuple[int, ...] | None = None) -> CommitRequest:
    return CommitRequest(
        shard=SHARD, attempt=attempt, rows=rows, parts=parts, run_id="r", fingerprint="f", relabelled=relabelled
    )


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(str(tmp_path))


def read(output: Output, kind: str) -> list[dict[str, Any]]:
    return pq.read_table(f"{output.uri}/{kind}/s-1.parquet").to_pylist()


def test_rows_come_out_in_input_order_whatever_the_order_of_parts(output: Output) -> None:
    stage(output, "late", [3, 4])
    stage(output, "early", [1, 0], errors=(2,))
    result = commit_shard(output, request(5, "late", "early"))
    assert (result.images, result.failed, result.added.labelled) == (5, 1, 4)
    assert result.failures == ({"image_id": "2", "stage": "decode", "error_class": "truncated"},)
    assert result.bytes_written == sum(path.stat().st_size for path in Path(output.uri).rglob("*.*"))
    assert [row["row"] for row in read(output, "labels")] == [0, 1, 3, 4]
    assert [row["row"] for row in read(output, "errors")] == [2]
    marker = json.loads(Path(output.uri, "stats", "s-1.json").read_text())
    assert marker["sums"]["labelled"] == 4
    assert marker["sums"]["errors"] == {"decode/truncated": 1}
    assert marker["shard"]["version"] == "v1"
    assert not output.names("_staging/a1/labels", ".parquet")


def test_rows_staged_twice_are_written_once(output: Output) -> None:
    stage(output, "a", [0, 1])
    stage(output, "b", [1, 2])
    commit_shard(output, request(3, "a", "b"))
    assert [row["row"] for row in read(output, "labels")] == [0, 1, 2]


@pytest.mark.parametrize(("labels", "errors"), [([0, 1], ()), ([0, 1, 2], (2,)), ([0, 1, 2, 3], ())])
def test_lost_or_surplus_rows_commit_nothing(output: Output, labels: list[int], errors: tuple[int, ...]) -> None:
    stage(output, "a", labels, errors)
    with pytest.raises(CommitError):
        commit_shard(output, request(3, "a"))
    assert not output.names("stats", ".json")
    assert not output.names("labels", ".parquet")


def test_a_commit_run_again_after_its_last_step_changes_nothing(output: Output) -> None:
    stage(output, "a", [0], errors=(1,))
    first = commit_shard(output, request(2, "a"))
    marker = output.read_bytes("stats/s-1.json")
    again = commit_shard(output, request(2, "a"))
    assert (again.images, again.failed, again.added) == (first.images, first.failed, first.added)
    assert output.read_bytes("stats/s-1.json") == marker


def test_a_shard_without_images_still_gets_its_marker(output: Output) -> None:
    assert commit_shard(output, request(0)).images == 0
    assert read(output, "labels") == []
    assert output.names("stats", ".json") == ["s-1"]


def test_a_retry_replaces_only_its_rows(output: Output) -> None:
    stage(output, "a", [0, 2, 4], errors=(1, 3))
    commit_shard(output, request(5, "a"))
    stage(output, "b", [1], name="dog", attempt="a2")
    stage(output, "c", [], errors=(3,), attempt="a2")
    result = commit_shard(output, request(2, "b", "c", attempt="a2", relabelled=(1, 3)))
    assert (result.images, result.failed, result.added.images) == (5, 1, 2)
    assert [(row["row"], row["class_names"]) for row in read(output, "labels")] == [
        (0, ["cat"]),
        (1, ["dog"]),
        (2, ["cat"]),
        (4, ["cat"]),
    ]
    assert [row["row"] for row in read(output, "errors")] == [3]


def test_the_errors_file_goes_when_the_last_error_is_repaired(output: Output) -> None:
    stage(output, "a", [0], errors=(1,))
    commit_shard(output, request(2, "a"))
    stage(output, "b", [1], attempt="a2")
    commit_shard(output, request(1, "b", attempt="a2", relabelled=(1,)))
    assert not output.names("errors", ".parquet")
    assert json.loads(Path(output.uri, "stats", "s-1.json").read_text())["sums"]["failed"] == 0


def test_files_carry_where_they_come_from(output: Output) -> None:
    stage(output, "a", [0])
    commit_shard(output, request(1, "a"))
    metadata = pq.read_schema(f"{output.uri}/labels/s-1.parquet").metadata
    assert metadata[b"maskmill.run_id"] == b"r"
    assert metadata[b"maskmill.fingerprint"] == b"f"
    assert metadata[b"maskmill.schema_version"] == b"1"


class Died(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


class DyingOutput(Output):
    """Dies before its ``last``th change of what is stored."""

    changes = 0
    last = 0

    def write_bytes(self, name: str, data: bytes) -> None:
        self._count()
        super().write_bytes(name, data)

    def remove(self, name: str) -> None:
        self._count()
        super().remove(name)

    def _count(self) -> None:
        self.changes += 1
        if self.changes >= self.last:
            raise Died


@pytest.mark.parametrize("relabelled", [None, (1, 3)])
def test_killed_between_any_two_steps_a_commit_run_again_is_whole(
    tmp_path: Path, relabelled: tuple[int, ...] | None
) -> None:
    ended = False
    for last in range(1, 50):
        output = DyingOutput(str(tmp_path / str(last)))
        output.last = 10_000
        if relabelled is not None:
            stage(output, "old", [0, 2, 4], errors=(1, 3), attempt="a0")
            commit_shard(output, request(5, "old", attempt="a0"))
        stage(output, "new", [0, 1, 2, 4] if relabelled is None else [1], errors=(3,))
        again = request(5 if relabelled is None else 2, "new", relabelled=relabelled)
        output.changes, output.last = 0, last
        try:
            commit_shard(output, again)
            ended = True
        except Died:
            marker = output.read_json("stats/s-1.json")
            if marker is not None:  # whoever sees a marker sees a whole shard
                seen = [row["row"] for kind in ("labels", "errors") for row in read(output, kind)]
                assert sorted(seen) == [0, 1, 2, 3, 4]
            output.last = 10_000
            commit_shard(output, again)
        assert [row["row"] for row in read(output, "labels")] == [0, 1, 2, 4]
        assert [row["row"] for row in read(output, "errors")] == [3]
        if ended:
            break
    assert ended
    assert last > 4


def test_a_run_that_was_started_anew_takes_no_commits_of_the_one_before(output: Output) -> None:
    stage(output, "a", [0, 1])
    output.write_json("run.json", {"run_id": "another"})
    with pytest.raises(CommitError, match="holds run another now"):
        commit_shard(output, request(2, "a"))
    assert not output.names("stats", ".json")


def test_orphans_of_this_and_earlier_attempts_go(output: Output) -> None:
    for attempt in ("20260101T000000Z-a", "20260102T000000Z-b", "20260103T000000Z-c"):
        stage(output, "a", [0], attempt=attempt)
    commit_shard(output, request(1, "a", attempt="20260102T000000Z-b"))
    for folder in (".", "labels", "stats"):
        Path(output.uri, folder, ".maskmill-written.tmp").touch()
    remove_orphans(output, "20260102T000000Z-b")
    left = {path.relative_to(output.uri).as_posix() for path in Path(output.uri).rglob("*") if path.is_file()}
    later = part_name("20260103T000000Z-c", "labels", "a")
    assert left == {"labels/s-1.parquet", "stats/s-1.json", later}
    remove_orphans(output, "20260103T000000Z-c")
    assert not Path(output.uri, "_staging").exists()
