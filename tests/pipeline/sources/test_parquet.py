"""Parquet: image bytes or URIs under the usual names, in runs of row groups, with what is wrong named."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.sources import ImageRecord, ReadLimits, ShardError, count_images, list_shards, read_shard


def write(path: Path, row_group_size: int | None = None, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return str(path)


def read(uri: str, **options: Any) -> list[ImageRecord]:
    shards = list_shards(uri, **options)
    return [record for shard in shards for record in read_shard(shard, with_segmentation=True)]


BYTES = [b"one", b"two", b"three"]


@pytest.mark.parametrize("name", ["image", "jpg", "image_bytes", "bytes", "content", "an only binary column"])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_image_bytes_under_usual_names(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    uri = write(tmp_path / "x.parquet", **{"width": [1, 2, 3], name: pa.array(BYTES, kind)})
    records = read(uri)
    assert [r.data for r in records] == BYTES
    (shard,) = list_shards(uri)
    assert [r.image_id for r in records] == [f"{shard.shard_id}/{row}" for row in range(3)]
    assert [r.uri for r in records] == [f"{uri}#row={row}" for row in range(3)]


def test_hugging_face_image_struct_and_a_column_by_name(tmp_path: Path) -> None:
    structs = [{"bytes": data, "path": None} for data in BYTES[:2]] + [None]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    uri = write(tmp_path / "x.parquet", image=pa.array(structs, kind), thumb=pa.array([b"t"] * 3), note=["a", "b", "c"])
    for column in (None, "image", "image.bytes"):
        records = read(uri, image_column=column)
        assert [r.data for r in records] == [b"one", b"two", None]
        assert records[2].error is not None
        assert records[2].error.error_class == "missing_data"
    assert [r.data for r in read(uri, image_column="thumb")] == [b"t"] * 3


@pytest.mark.parametrize("name", ["image_id", "id", "key", "__key__"])
@pytest.mark.parametrize("values", [["a", "b", "c"], [7, 8, 9], ["a", None, "c"]])
def test_ids_come_from_the_table(tmp_path: Path, name: str, values: list[Any]) -> None:
    uri = write(tmp_path / "x.parquet", **{name: values, "image": BYTES})
    (shard,) = list_shards(uri)
    wanted = [f"{shard.shard_id}/{row}" if value is None else str(value) for row, value in enumerate(values)]
    assert [r.image_id for r in read(uri)] == wanted


def test_nulls_empties_and_large_values_are_rows_with_an_error(tmp_path: Path) -> None:
    uri = write(tmp_path / "x.parquet", image=[b"ok", None, b"", b"x" * 500])
    (shard,) = list_shards(uri)
    records = list(read_shard(shard, limits=ReadLimits(max_image_bytes=499)))
    assert [r.error and (r.error.stage, r.error.error_class) for r in records] == [
        None,
        ("read", "missing_data"),
        ("read", "empty"),
        ("read", "too_large"),
    ]
    assert [r.row for r in records] == [0, 1, 2, 3]
    assert all((r.data is None) != (r.error is None) for r in records)


def test_segmentations_come_along_when_asked(tmp_path: Path) -> None:
    uri = write(tmp_path / "x.parquet", image=BYTES, segmentation=pa.array([b"s1", None, b"s3"]))
    assert [r.segmentation for r in read(uri)] == [b"s1", None, b"s3"]
    (shard,) = list_shards(uri)
    assert [r.segmentation for r in read_shard(shard)] == [None] * 3


def test_uri_columns_relative_and_absolute(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name, data in zip(("a", "b"), BYTES, strict=False):
        (tmp_path / "pictures" / f"{name}.jpg").write_bytes(data)
    (tmp_path / "pictures" / "a.seg.png").write_bytes(b"truth")
    uris = ["pictures/a.jpg", str(tmp_path / "pictures" / "b.jpg"), "pictures/none.jpg", None]
    records = read(write(tmp_path / "x.parquet", url=uris))
    assert [r.data for r in records] == [b"one", b"two", None, None]
    assert [r.error and r.error.error_class for r in records] == [None, None, "not_found", "missing_data"]
    assert [r.image_id for r in records[:3]] == ["pictures/a", f"{tmp_path}/pictures/b", "pictures/none"]
    assert [r.segmentation for r in records[:2]] == [b"truth", None]
    assert records[0].uri == f"{tmp_path}/pictures/a.jpg"


def test_big_files_are_cut_at_row_groups(tmp_path: Path) -> None:
    uri = write(tmp_path / "x.parquet", row_group_size=10, image=[str(n).encode() for n in range(95)])
    shards = list_shards(uri, shard_size=25)
    assert [(s.start, s.stop) for s in shards] == [(0, 3), (3, 6), (6, 10)]
    assert [count_images(s) for s in shards] == [30, 30, 35]
    assert len({s.shard_id for s in shards}) == 3
    records = [list(read_shard(s)) for s in shards]
    assert [r.data for part in records for r in part] == [str(n).encode() for n in range(95)]
    assert [r.row for r in records[1]] == list(range(30))
    assert records[1][0].uri.endswith("#row=30")
    assert records[1][0].image_id == f"{shards[1].shard_id}/0"
    assert [s.size_bytes for s in shards] == pytest.approx(
        [Path(uri).stat().st_size * n / 95 for s, n in zip(shards, (30, 30, 35), strict=True)], abs=1
    )
    whole = list_shards(uri)
    assert [(s.start, s.stop) for s in whole] == [(0, 10)]
    assert whole[0].shard_id not in {s.shard_id for s in shards}
    assert list_shards(uri, shard_size=25, limit=2) == shards[:2]


def test_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    """One row group of 80 MB in pages of 2 MB. (Pages are read whole: that size is the writer's choice.)"""
    images = [np.random.default_rng(n).bytes(500_000) for n in range(160)]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": images}), path, write_batch_size=4, use_dictionary=False)
    assert pq.ParquetFile(path).metadata.num_row_groups == 1
    del images
    pool = pa.default_memory_pool()
    (shard,) = list_shards(str(path))
    before, peak, total = pool.bytes_allocated(), 0, 0
    for record in read_shard(shard):
        total += len(record.data or b"")
        peak = max(peak, pool.bytes_allocated() - before)
    assert total == 80_000_000
    # Measured 19.5 MB: a batch of 16 MB and the pages under it.
    assert peak < 30_000_000, peak


@pytest.mark.parametrize(
    ("columns", "image_column", "message"),
    [
        (
            {"width": [1], "note": ["x"]},
            None,
            r"no column of image bytes .*columns are width \(int64\), note \(string\)",
        ),
        ({"image": [1]}, None, r"columns are image \(int64\).*--image-column"),
        ({"image": [1]}, "image", "column 'image' holds int64, not image bytes or URIs"),
        ({"image": [b"x"]}, "photo", r"no column 'photo'; the columns are image \(binary\)"),
        ({"left": [b"x"], "right": [b"y"]}, None, "no column of image bytes"),
    ],
)
def test_tables_without_images_name_their_columns(
    tmp_path: Path, columns: dict[str, Any], image_column: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        list_shards(write(tmp_path / "x.parquet", **columns), image_column=image_column)


def test_damaged_files(tmp_path: Path) -> None:
    good, bad = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write(good, image=BYTES)
    whole = good.read_bytes()
    for content in (whole[:-20], b"", b"no parquet" * 10):
        bad.write_bytes(content)
        with pytest.raises(UsageError, match=r"b\.parquet"):
            list_shards(str(bad))
        # Beside a good one it is a shard of its own, which fails in plain sight.
        shards = list_shards(str(tmp_path))
        assert [len(list(read_shard(shards[0])))] == [3]
        with pytest.raises(ShardError, match="Parquet"):
            list(read_shard(shards[1]))
        with pytest.raises(ShardError):
            count_images(shards[1])


def test_corrupt_pages_end_the_shard_after_the_rows_before(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write(path, row_group_size=5, image=[bytes([n]) * 1000 for n in range(20)])
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    data[start : start + 200] = b"\xff" * 200
    path.write_bytes(data)
    (shard,) = list_shards(str(path))
    records = read_shard(shard)
    found = [next(records).data for _ in range(10)]
    assert found == [bytes([n]) * 1000 for n in range(10)]
    with pytest.raises(ShardError, match=r"(?s)damaged Parquet data.*after 10 images") as caught:
        list(records)
    assert caught.value.rows_read == 10


def test_mutated_files_are_whole_or_raise_shard_error(tmp_path: Path) -> None:
    table = pa.table({"image": [bytes([n]) * 200 for n in range(50)], "id": [f"id{n}" for n in range(50)]})
    path = tmp_path / "b.parquet"
    pq.write_table(table, path, row_group_size=10)
    whole = path.read_bytes()
    write(tmp_path / "a.parquet", image=BYTES)
    rng = random.Random(0)
    damaged = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        shards = list_shards(str(tmp_path))
        try:
            rows = sum(1 for shard in shards[1:] for _ in read_shard(shard))
        except ShardError:
            damaged += 1
        else:
            assert rows == 50
    assert 200 < damaged < 400


def test_a_file_with_other_columns_than_the_first_fails_visibly(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", image=BYTES)
    write(tmp_path / "b.parquet", width=[1])
    shards = list_shards(str(tmp_path))
    with pytest.raises(ShardError, match=r"the columns are width \(int64\)"):
        list(read_shard(shards[1]))


def test_a_table_without_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", image=pa.array([], pa.binary()))
    with pytest.raises(UsageError, match="there is no image in"):
        list_shards(str(tmp_path))
    write(tmp_path / "b.parquet", image=BYTES)
    assert [count_images(shard) for shard in list_shards(str(tmp_path))] == [3]
