"""Every way in which Arrow lays out bytes and text is an image, a URI or an id, wherever a table has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from maskmill.pipeline.sources import ImageRecord, list_shards, read_shard
from maskmill.pipeline.sources.columns import is_binary, is_text, plain

BYTES = [b"one", b"two", b"two"]


class Wrapped(pa.ExtensionType):
    """What libraries such as Ray wrap columns in."""

    def __init__(self, storage: pa.DataType) -> None:
        super().__init__(storage, "maskmill.test")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Wrapped:
        return cls(storage_type)


@pytest.fixture(autouse=True)
def registered() -> Any:
    pa.register_extension_type(Wrapped(pa.binary()))
    yield
    pa.unregister_extension_type("maskmill.test")


def read(path: Path, **options: Any) -> list[ImageRecord]:
    return [record for shard in list_shards(str(path), **options) for record in read_shard(shard)]


BINARY = {
    "binary": pa.array(BYTES),
    "large": pa.array(BYTES, pa.large_binary()),
    "view": pa.array(BYTES, pa.binary_view()),
    "fixed": pa.array(BYTES, pa.binary(3)),
    "dictionary": pa.array(BYTES).dictionary_encode(),
    "extension": pa.ExtensionArray.from_storage(Wrapped(pa.binary()), pa.array(BYTES)),
}


@pytest.mark.parametrize("name", BINARY)
def test_bytes_of_every_layout_are_images(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.table({"id": ["a", "b", "c"], "image": BINARY[name]}), tmp_path / "x.parquet")
    assert [record.data for record in read(tmp_path / "x.parquet")] == BYTES
    assert [record.data for record in read(tmp_path / "x.parquet", image_column="image")] == BYTES
    if name not in ("dictionary", "extension"):
        struct = pa.StructArray.from_arrays([BINARY[name], pa.nulls(3, pa.string())], ["bytes", "path"])
        pq.write_table(pa.table({"id": ["a", "b", "c"], "image": struct}), tmp_path / "y.parquet")
        assert [record.data for record in read(tmp_path / "y.parquet")] == BYTES


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_text_of_every_layout_names_images_and_is_an_id(tmp_path: Path, kind: pa.DataType) -> None:
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
    text = pa.array(["a.jpg", "b.jpg", "c.jpg"]).cast(kind)
    pq.write_table(pa.table({"id": pa.array(["1", "2", "3"]).cast(kind), "url": text}), tmp_path / "x.parquet")
    records = read(tmp_path / "x.parquet")
    assert [(record.image_id, record.data) for record in records] == [("1", b"a"), ("2", b"b"), ("3", b"c")]


def test_run_lengths_and_uuids_are_told_from_images() -> None:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3]), pa.array([b"x", b"y"]))
    assert is_binary(runs.type)
    assert plain(runs).to_pylist() == [b"x", b"x", b"y"]
    assert not is_binary(pa.uuid())
    assert not is_binary(pa.list_view(pa.binary()))
    assert not is_text(pa.list_(pa.string()))


def test_ids_of_bytes_and_numbers_are_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([b"a", b"\xff", b"c"]), "image": BYTES}), tmp_path / "x.parquet")
    assert [record.image_id for record in read(tmp_path / "x.parquet")] == ["a", "\\xff", "c"]


def test_an_image_without_bytes_is_read_where_its_path_says(tmp_path: Path) -> None:
    """What `Dataset.from_dict({"image": paths})` of Hugging Face writes, with one image that has its bytes."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"from a file")
    images = [
        {"bytes": None, "path": "in/a.jpg"},
        {"bytes": b"inside", "path": "in/a.jpg"},
        {"bytes": None, "path": str(tmp_path / "in" / "a.jpg")},
        {"bytes": None, "path": "gone.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, kind)}), tmp_path / "x.parquet")
    for column in (None, "image", "image.bytes"):
        records = read(tmp_path / "x.parquet", image_column=column)
        assert [record.data for record in records] == [b"from a file", b"inside", b"from a file", None, None, None]
        errors = [record.error and record.error.error_class for record in records]
        assert errors == [None, None, None, "not_found", "missing_data", "missing_data"]
        assert [record.row for record in records] == list(range(6))
        assert records[0].uri == str(tmp_path / "in" / "a.jpg")
        assert records[1].uri.endswith("x.parquet#row=1")
        assert records[0].image_id == "in/a"


def test_a_hugging_face_data_set_of_paths(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    features = datasets.Features({"image": datasets.Image()})
    made = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png")]}, features=features)
    made.to_parquet(tmp_path / "x.parquet")
    (record,) = read(tmp_path / "x.parquet")
    assert record.data == (tmp_path / "a.png").read_bytes()
