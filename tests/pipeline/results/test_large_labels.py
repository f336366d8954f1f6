"""Labels with huge masks: row groups and batches are bounded by bytes, and beyond 2 GiB a shard can still be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pycocotools.coco import COCO

from maskmill.pipeline.export.export import ExportSettings, export_run
from maskmill.pipeline.output.commit import commit_shard
from maskmill.pipeline.output.folder import ROW_GROUP_BYTES, Output, labels_name, part_name
from maskmill.pipeline.results.reader import BATCH_BYTES, open_results
from maskmill.pipeline.stages.encode import labels_table
from tests.pipeline.output.test_commit import SHARD, label, request
from tests.pipeline.written_run import RunSettings, write_run_files


def commit_large(output: Output, rows: int, text_bytes: int) -> None:
    """Commit a shard whose rows have masks of so many bytes; they repeat, as those of the frames of a film do."""
    texts = ["0" * text_bytes, "1" * text_bytes]
    for part in range(2):
        own = [{**label(row), "rles": [texts[row % 2]]} for row in range(part, rows, 2)]
        output.write_table(part_name("a1", "labels", str(part)), labels_table(own))
    commit_shard(output, request(rows, "1", "0"))
    write_run_files(output, RunSettings(classes=[{"name": "cat"}]), "in", 1)


def test_row_groups_and_batches_are_bounded_by_bytes(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    # So small that two of them fit into a dictionary page, which would hide what the rows come to.
    rows, text_bytes = 400, 300 * 2**10
    commit_large(output, rows, text_bytes)
    metadata = pq.read_metadata(tmp_path / labels_name(SHARD.shard_id))
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    assert all(ROW_GROUP_BYTES / 4 < group.total_byte_size <= ROW_GROUP_BYTES for group in groups)
    results = open_results(str(tmp_path))
    batches = list(results.batches(SHARD.shard_id))
    assert [row for batch in batches for row in batch["row"].to_pylist()] == list(range(rows))
    assert all(batch.nbytes <= BATCH_BYTES for batch in batches)
    assert len(list(results.batches(SHARD.shard_id, ["row"]))) == len(groups), "small columns come in large batches"
    assert results.row(SHARD.shard_id, 333)["rles"] == ["1" * text_bytes]


def test_small_shards_stay_one_row_group(tmp_path: Path) -> None:
    commit_large(Output(str(tmp_path)), rows=1000, text_bytes=100)
    assert pq.read_metadata(tmp_path / labels_name(SHARD.shard_id)).num_row_groups == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_shard_and_a_coco_file_above_2_gib_are_read_whole(tmp_path: Path) -> None:
    rows, text_bytes = 22, 100 * 2**20
    commit_large(Output(str(tmp_path / "out")), rows, text_bytes)
    table = pq.read_table(tmp_path / "out" / labels_name(SHARD.shard_id))
    assert table.nbytes > 2 * 2**30
    assert table["row"].to_pylist() == list(range(rows))
    del table
    # The same shard once more, as a retry of one row rewrites it.
    output = Output(str(tmp_path / "out"))
    output.write_table(part_name("a2", "labels", "p"), labels_table([{**label(5), "rles": ["2"]}]))
    run_id = output.read_json("run.json")["run_id"]
    commit_shard(output, replace(request(1, "p", attempt="a2", relabelled=(5,)), run_id=run_id))
    export_run(str(tmp_path / "out"), str(tmp_path / "coco"), ExportSettings(file_format="coco"))
    path = tmp_path / "coco" / "stuff.json"
    assert path.stat().st_size > 2 * 2**30
    coco = COCO(str(path))
    sizes = [len(annotation["segmentation"]["counts"]) for annotation in coco.anns.values()]
    assert sizes == [1 if row == 5 else text_bytes for row in range(rows)]
