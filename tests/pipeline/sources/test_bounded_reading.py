"""What a task holds is bounded in bytes, not rows; peaks are measured in processes that do nothing else."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from maskmill.pipeline.decoding.decode import Decoding
from maskmill.pipeline.sources import ReadLimits, list_shards
from maskmill.pipeline.sources.files import READ_AHEAD_BYTES, ordered_map
from maskmill.pipeline.stages.decode import DECODED_TABLE_BYTES, DecodeStage
from maskmill.pipeline.stages.read import READ_TABLE_BYTES, ReadStage, ShardTask
from maskmill.pipeline.stages.rows import ENCODED, META

ROOT = Path(__file__).parents[3]
LARGE_BYTES = 9 * 2**20
ROWS = 80


def peak_of_reading(path: Path) -> dict[str, int]:
    """Read a table in a process of its own: rows, the largest block, and how much memory Arrow held at most."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(path)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
    return json.loads(finished.stdout.splitlines()[-1])


def read_in_this_process(path: str) -> None:
    (shard,) = list_shards(path)
    rows = errors = largest = 0
    for table in ReadStage(ReadLimits(), {})(pa.table({"task": [pickle.dumps(ShardTask(index=0, shard=shard))]})):
        rows += table.num_rows
        errors += table.num_rows - table["error_class"].null_count
        largest = max(largest, table.nbytes)
    print(
        json.dumps({"rows": rows, "errors": errors, "largest": largest, "bytes": pa.default_memory_pool().max_memory()})
    )


@pytest.mark.parametrize("inside", ["column", "struct"])
def test_one_large_image_behind_many_rows_of_a_dictionary(tmp_path: Path, inside: str) -> None:
    image = pa.array([np.random.default_rng(0).bytes(LARGE_BYTES)])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * ROWS, pa.int32()), image)
    if inside == "column":
        pq.write_table(pa.table({"image": column}), tmp_path / "x.parquet", dictionary_pagesize_limit=2**30)
    else:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        writer = pq.ParquetWriter(
            tmp_path / "x.parquet", pa.schema([("image", kind)]), dictionary_pagesize_limit=2**30, write_batch_size=16
        )
        with writer:
            structs = pa.array([{"bytes": image[0].as_py(), "path": None}] * (ROWS // 4), kind)
            writer.write_table(pa.table({"image": pa.concat_arrays([structs] * 4)}), row_group_size=ROWS)
    assert (tmp_path / "x.parquet").stat().st_size < 2 * LARGE_BYTES
    measured = peak_of_reading(tmp_path / "x.parquet")
    print(measured)
    assert measured["rows"] == ROWS + 1
    assert measured["errors"] == 0
    assert measured["largest"] < READ_TABLE_BYTES + LARGE_BYTES + 2**20
    assert measured["bytes"] < 8 * LARGE_BYTES  # all rows at once before


def test_large_images_among_small_ones_come_alone(tmp_path: Path) -> None:
    large, small = bytes(LARGE_BYTES), b"small"
    images = [small] * 600 + [large] * 16
    pq.write_table(pa.table({"image": images}), tmp_path / "x.parquet", use_dictionary=False, write_batch_size=1)
    measured = peak_of_reading(tmp_path / "x.parquet")
    assert measured["rows"] == 617
    assert measured["bytes"] < 8 * LARGE_BYTES
    assert measured["largest"] < READ_TABLE_BYTES + LARGE_BYTES + 2**20


def encoded_rows(count: int, side: int) -> pa.Table:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (9, 9, 9)).save(stream, "PNG")
    row = {
        **dict.fromkeys(META.names),
        "shard": 0,
        "image_id": "x",
        "uri": "x",
        "attempts": 1,
        "data": stream.getvalue(),
    }
    return pa.Table.from_pylist([{**row, "row": number} for number in range(count)], schema=ENCODED)


@pytest.mark.parametrize(("short_side", "side"), [(None, 1500), (640, 1500)])
def test_decoded_images_are_handed_over_by_bytes(short_side: int | None, side: int) -> None:
    """An image of one colour has some kilobytes when encoded and 6.75 MB when decoded: all of them were one table."""
    tables = list(DecodeStage(Decoding(), short_side, 2560)(encoded_rows(12, side)))
    assert [row for table in tables for row in table["row"].to_pylist()] == list(range(12))
    assert max(table.nbytes for table in tables) <= DECODED_TABLE_BYTES + 2**20
    assert all(table["error_class"].null_count == table.num_rows for table in tables)


def test_rows_without_an_image_pass_through_decoding() -> None:
    table = encoded_rows(3, 8)
    ended = table.slice(0, 1).to_pylist()[0] | {"data": None, "total": 3, "row": 3}
    batch = pa.concat_tables([table, pa.Table.from_pylist([ended], schema=ENCODED)])
    (decoded,) = DecodeStage(Decoding(), None, 2560)(batch)
    assert decoded["total"].to_pylist() == [None, None, None, 3]
    (empty,) = DecodeStage(Decoding(), None, 2560)(batch.slice(0, 0))
    assert empty.num_rows == 0


@pytest.mark.parametrize(("size", "most"), [(READ_AHEAD_BYTES, 2), (READ_AHEAD_BYTES // 4, 4), (1000, 16)])
def test_few_large_files_are_read_ahead_and_many_small_ones(size: int, most: int) -> None:
    started: list[int] = []
    lock = threading.Lock()
    ahead = []

    def load(number: int) -> int:
        with lock:
            started.append(number)
        return size

    for number, _ in ordered_map(load, range(200), 16, lambda result: result):
        with lock:
            ahead.append(len(started) - number)
    assert started[:1] == [0]
    assert sorted(started) == list(range(200))
    assert max(ahead) <= most
    assert size > 1000 or max(ahead) > 8


if __name__ == "__main__":
    read_in_this_process(sys.argv[1])
