"""The schemas of the tables that travel between stages, and :func:`transform`, which applies a stage's work to them.

Every stage takes and yields Arrow tables with the META columns first. A row is one of three kinds:
an image still to be worked on (``error_stage`` and ``total`` null), a failed image (``error_stage`` set), or the
end mark of a shard (``total`` set: how many rows the shard has). Only the first kind carries data, and only on it the
work is done; rows of the other kinds pass unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from maskmill.pipeline.errors import BadImageError

META = pa.schema(
    [
        ("shard", pa.int32()),  # position in the run's list of pending shards
        ("row", pa.int64()),
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("total", pa.int64()),
        ("attempts", pa.int32()),
        ("error_stage", pa.string()),
        ("error_class", pa.string()),
        ("error_message", pa.string()),
    ]
)
ENCODED = pa.schema([*META, ("data", pa.large_binary())])
DECODED = pa.schema(
    [
        *META,
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("pixel_width", pa.int32()),
        ("pixel_height", pa.int32()),
        ("pixels", pa.large_binary()),
    ]
)
"""width, height: the original image. pixels: uint8 (pixel_height, pixel_width, 3) RGB, resized for the model."""
PROPOSED = pa.schema([*DECODED, ("proposals", pa.large_binary())])
CLASSIFIED = pa.schema(
    [
        *META,
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("segment_map", pa.large_binary()),
        ("segment_values", pa.list_(pa.int32())),
        ("class_ids", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
        ("stability", pa.list_(pa.float32())),
        ("agreement", pa.list_(pa.float32())),
        ("objectness", pa.list_(pa.float32())),
        ("margin", pa.list_(pa.float32())),
    ]
)
"""segment_map: uint16 (height, width), raw; segment_values: the value of each segment in it, parallel to class_ids."""

Row = dict[str, Any]
MESSAGE_LIMIT = 500


def failed(row: Row, error: BadImageError) -> Row:
    """Return the row as a failed one, without its data."""
    meta = {name: row.get(name) for name in META.names}
    return {
        **meta,
        "error_stage": error.stage,
        "error_class": error.error_class,
        "error_message": error.message[:MESSAGE_LIMIT],
    }


Work = Callable[[list[Row]], Sequence[Row | BadImageError]]
"""Returns an entry for each row: its new columns, without META, which :func:`transform` adds; or its error."""


def transform(
    batch: pa.Table, schema: pa.Schema, work: Work, run: Callable[[list[Row], Work], Sequence[Row | BadImageError]]
) -> pa.Table:
    """Apply ``work``, called by ``run``, to the image rows of ``batch``; other rows pass unchanged, in order."""
    rows = batch.to_pylist()
    waiting = [row for row in rows if row["error_stage"] is None and row["total"] is None]
    results = iter(run(waiting, work)) if waiting else iter(())
    done: list[Row] = []
    for row in rows:
        if row["error_stage"] is not None or row["total"] is not None:
            done.append({name: row[name] for name in META.names})
            continue
        result = next(results)
        if isinstance(result, BadImageError):
            done.append(failed(row, result))
        else:
            done.append({**{name: row[name] for name in META.names}, **result})
    return pa.Table.from_pylist(done, schema=schema)
