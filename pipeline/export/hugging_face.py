"""Exports a folder of Parquet files that ``datasets.load_dataset`` opens with images, label maps and class names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from maskmill.pipeline.export.label_maps import LabelMapEncoder
from maskmill.pipeline.export.target import LabelledImage, Target
from maskmill.pipeline.output.schema import BOX
from maskmill.pipeline.results.reader import Results

MOST_GROUP_ROWS, MOST_GROUP_BYTES = 64, 32 * 2**20
"""The most rows and bytes of a row group; they are limited because readers load a whole group at once."""
MOST_FILE_BYTES = 512 * 2**20
"""The most bytes of a file; limited because readers may load a whole file, and Arrow's arrays of bytes end at 2 GiB."""
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

_CARD = """---
configs:
- config_name: default
  data_files: data/*.parquet
---
Labels of maskmill run {run_id}. `image` is {image}; `label_map` a PNG whose pixels are
class ids ({unlabelled} is unlabelled); the lists are parallel, one entry per segment, and `rles` are COCO's compressed
counts.

    datasets.load_dataset("this folder", split="train")
"""


def export_hugging_face(target: Target, images: Iterator[LabelledImage]) -> None:
    """Write ``data/train-<number>.parquet`` and a dataset card.

    Columns: image (null where images are not exported), label_map, image_id, uri, shard, row, width, height, class_ids
    (ClassLabel), scores, areas, boxes, rles. A file ends at ``images_per_file`` or MOST_FILE_BYTES.
    """
    encode = LabelMapEncoder(target.results)
    schema = _schema(target.results)
    has_images = False
    files = 0
    for _, part in target.parts(images):
        groups = _row_groups(_row(image, encode) for image in part)
        group = next(groups, None)
        while group is not None or files == 0:  # write at least one file, even if it is empty
            with (
                target.open(f"data/train-{files:05d}.parquet") as stream,
                # Images are not encoded by a dictionary, which would hold every one of them.
                pq.ParquetWriter(stream, schema, use_dictionary=False) as writer,
            ):
                size = 0
                while group is not None and size < MOST_FILE_BYTES:
                    has_images |= group[0]["image"] is not None
                    writer.write_table(pa.Table.from_pylist(group, schema=schema))
                    size += sum(map(_size, group))
                    group = next(groups, None)
            files += 1
    card = _CARD.format(
        run_id=target.results.run["run_id"],
        image="the image as it was stored" if has_images else "null (exported without images)",
        unlabelled=encode.unlabelled,
    )
    target.write("README.md", card.encode())


def _row_groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Cut rows into lists of bounded length and size."""
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += _size(row)
        # `datasets` joins up to 100 groups of a single row, which can be more bytes than its arrays can hold.
        if len(group) >= MOST_GROUP_ROWS or (len(group) > 1 and size >= MOST_GROUP_BYTES):
            yield group
            group, size = [], 0
    if group:
        yield group


def _size(row: dict[str, Any]) -> int:
    """Return the bytes of the large columns of a row."""
    image = 0 if row["image"] is None else len(row["image"]["bytes"])
    return image + len(row["label_map"]["bytes"]) + sum(map(len, row["rles"]))


def _row(image: LabelledImage, encode: LabelMapEncoder) -> dict[str, Any]:
    row = image.row
    kept = ("image_id", "uri", "shard", "row", "width", "height", "class_ids", "scores", "areas", "boxes", "rles")
    return {
        "image": None if image.data is None else {"bytes": image.data, "path": image.file_name},
        "label_map": {"bytes": encode(row), "path": f"{image.stem}.png"},
        **{name: row[name] for name in kept},
    }


def _schema(results: Results) -> pa.Schema:
    schema = pa.schema(
        [
            ("image", _IMAGE),
            ("label_map", _IMAGE),
            ("image_id", pa.string()),
            ("uri", pa.string()),
            ("shard", pa.string()),
            ("row", pa.int64()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            # ClassLabel is stored as int64.
            ("class_ids", pa.list_(pa.int64())),
            ("scores", pa.list_(pa.float32())),
            ("areas", pa.list_(pa.int64())),
            ("boxes", pa.list_(BOX)),
            ("rles", pa.list_(pa.string())),
        ]
    )
    metadata = json.dumps({"info": {"features": _features(results)}}, ensure_ascii=False)
    return schema.with_metadata({"huggingface": metadata})


def _features(results: Results) -> dict[str, Any]:
    """Return the columns as features of ``datasets``; all its releases understand "Sequence"."""

    def value(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "_type": "Value"}

    def sequence(feature: dict[str, Any], length: int = -1) -> dict[str, Any]:
        return {"feature": feature, "length": length, "_type": "Sequence"}

    return {
        "image": {"_type": "Image"},
        "label_map": {"_type": "Image"},
        "image_id": value("string"),
        "uri": value("string"),
        "shard": value("string"),
        "row": value("int64"),
        "width": value("int32"),
        "height": value("int32"),
        "class_ids": sequence({"names": results.names, "_type": "ClassLabel"}),
        "scores": sequence(value("float32")),
        "areas": sequence(value("int64")),
        "boxes": sequence(sequence(value("int32"), 4)),
        "rles": sequence(value("string")),
    }
