"""Ground truth in Parquet: finds the column with label maps, and reads tables whose rows hold segments as RLEs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.evaluation.index import Wanted
from maskmill.pipeline.evaluation.protocol import EvaluationError
from maskmill.pipeline.evaluation.rle_columns import paint, parse_column
from maskmill.pipeline.evaluation.truth import GroundTruth, from_segments
from maskmill.pipeline.sources import Shard, ShardError
from maskmill.pipeline.sources.columns import ID_COLUMNS, SEGMENTATION_COLUMNS
from maskmill.pipeline.sources.parquet import open_parquet
from maskmill.pipeline.sources.shard import DamagedError
from maskmill.pipeline.sources.stream import find_file, open_file
from maskmill.pipeline.storage.files import StorageOptions

MAP_COLUMNS = (*SEGMENTATION_COLUMNS, "label_map", "label", "labels", "mask", "annotation")
RLE_COLUMNS = ("width", "height", "class_ids", "rles")
_BATCH_ROWS = 32


def has_rles(schema: pa.Schema) -> bool:
    """Return whether rows hold segments in the columns of maskmill's labels tables."""
    return set(RLE_COLUMNS) <= set(schema.names)


def label_column(schema: pa.Schema, wanted: str | None, uri: str) -> str:
    """Return the column with encoded label maps. Raises UsageError where there is none, naming the columns."""
    candidates = (wanted,) if wanted else MAP_COLUMNS
    for name in candidates:
        if name in schema.names:
            return name
    raise UsageError(
        f"{uri} has no column {' or '.join(candidates)} with label maps, nor {', '.join(RLE_COLUMNS)} with segments; "
        f"its columns are {', '.join(schema.names)}. Name one with --ground-truth-column"
    )


def id_column(schema: pa.Schema, uri: str) -> str:
    """Return the column with image ids. Raises UsageError where there is none."""
    for name in ID_COLUMNS:
        if name in schema.names:
            return name
    raise UsageError(f"{uri} has no column {' or '.join(ID_COLUMNS)} to match images by")


def read_schema(location: str, storage_options: StorageOptions) -> pa.Schema:
    """Return the schema of a Parquet file. Raises UsageError for any other file."""
    try:
        with open_file(location, storage_options) as stream:
            return open_parquet(stream).schema_arrow
    except DamagedError as error:
        raise UsageError(f"{location}: {error}") from error


def read_segment_table(
    shard: Shard, storage_options: StorageOptions, label_table: np.ndarray, classes: int
) -> Iterator[GroundTruth]:
    """Yield the images of a table with RLE_COLUMNS, with class ids mapped by ``label_table``.

    Raises EvaluationError for ids the protocol does not have, and ShardError for a damaged or changed file.
    """
    found = find_file(shard.location, storage_options)
    if found.version != shard.version:
        raise ShardError(shard.shard_id, "the file has changed since it was listed", 0)
    rows_read = 0
    with found.open() as stream:
        try:
            file = open_parquet(stream)
            name = id_column(file.schema_arrow, shard.uri)
            groups = list(range(shard.start, shard.stop or file.metadata.num_row_groups))
            columns = [name, *RLE_COLUMNS]
            has_uris = "uri" in file.schema_arrow.names
            names = ["image_id", *RLE_COLUMNS, *(["uri"] if has_uris else [])]
            if has_uris:
                columns.append("uri")
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=columns, use_threads=False):
                # Select the columns again: a batch has them in the file's order, not in the requested one.
                table = pa.Table.from_batches([batch]).select(columns).rename_columns(names)
                yield from _images(table, label_table, classes)
                rows_read += batch.num_rows
        except (DamagedError, pa.ArrowInvalid) as error:
            raise ShardError(shard.shard_id, str(error), rows_read) from error


def _images(table: pa.Table, label_table: np.ndarray, classes: int) -> Iterator[GroundTruth]:
    heights, widths = (table[name].to_numpy().astype(np.int64) for name in ("height", "width"))
    image_ids, class_ids = table["image_id"].to_pylist(), table["class_ids"].to_pylist()
    uris = table["uri"].to_pylist() if "uri" in table.column_names else [""] * table.num_rows
    counts = np.array([len(ids) for ids in class_ids], dtype=np.int64)
    names = [f"ground truth {image_id!r}" for image_id in image_ids]
    runs = parse_column(table["rles"].combine_chunks(), counts, heights * widths, names.__getitem__)
    for i, image_id in enumerate(image_ids):
        height, width = int(heights[i]), int(widths[i])
        mapped = np.array([map_id(label_table, value, classes, image_id) for value in class_ids[i]], dtype=np.int64)
        truth = from_segments(
            index=paint(runs, i, height * width, mapped.size, names[i]),
            shape=(height, width),
            classes=mapped,
            crowd=np.zeros(mapped.size, dtype=bool),
            ignored=classes,
            image_id=str(image_id),
        )
        yield replace(truth, wanted=Wanted((), str(uris[i] or "")))


def map_id(label_table: np.ndarray, value: int, classes: int, image_id: str) -> int:
    """Map one class id by the table. Raises EvaluationError where the id is out of range."""
    mapped = int(label_table[value]) if 0 <= value < label_table.size else classes + 1
    if mapped > classes:
        raise EvaluationError(
            f"ground truth {image_id!r} has class id {value}, outside the protocol's 0..{classes - 1}; "
            "--ground-truth-ids raw reads a dataset's own ids"
        )
    return mapped
