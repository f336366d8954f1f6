"""The Parquet schemas of the tables that a run writes; docs/output.md explains their columns."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1
"""Part of every file's metadata; it grows when a column is added or removed, or changes its meaning."""

BOX = pa.list_(pa.int32(), 4)
"""XYWH in pixels of the original image; W and H count pixels, so a one-pixel segment has W = H = 1."""

LABELS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("coverage", pa.float32(), nullable=False),
        pa.field("class_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("class_names", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("areas", pa.list_(pa.int64()), nullable=False),
        pa.field("boxes", pa.list_(BOX), nullable=False),
        pa.field("stability", pa.list_(pa.float32()), nullable=False),
        pa.field("agreement", pa.list_(pa.float32()), nullable=False),
        pa.field("objectness", pa.list_(pa.float32()), nullable=False),
        pa.field("margin", pa.list_(pa.float32()), nullable=False),
        pa.field("components", pa.list_(pa.int32()), nullable=False),
        pa.field("withheld_segments", pa.int32(), nullable=False),
        pa.field("withheld_pixels", pa.int64(), nullable=False),
        pa.field("rles", pa.list_(pa.string()), nullable=False),
    ]
)
"""One row per labelled image, in input order. The list columns are parallel: one entry per segment.

withheld_segments, withheld_pixels: what --min-score, --min-stability and --min-area left unlabelled.
"""

ERRORS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error_class", pa.string(), nullable=False),
        pa.field("error_message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)
"""One row per image that could not be labelled. Every input row is in exactly one of LABELS and ERRORS."""

CLASS_STATS = pa.schema(
    [
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("seen", pa.bool_()),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("segments", pa.int64(), nullable=False),
        pa.field("pixels", pa.int64(), nullable=False),
        pa.field("pixel_share", pa.float64(), nullable=False),
        pa.field("score_mean", pa.float64()),
        pa.field("score_p10", pa.float64()),
        pa.field("score_p50", pa.float64()),
        pa.field("score_p90", pa.float64()),
        pa.field("area_p10", pa.float64()),
        pa.field("area_p50", pa.float64()),
        pa.field("area_p90", pa.float64()),
        pa.field("agreement_mean", pa.float64()),
        pa.field("co_occurring", pa.list_(pa.string()), nullable=False),
    ]
)
"""One row per class of the vocabulary, zero hits included; means and percentiles are null where there is no segment."""


def with_metadata(schema: pa.Schema, **metadata: str) -> pa.Schema:
    """Return ``schema`` with ``maskmill.``-prefixed file metadata and the schema version."""
    entries = {f"maskmill.{key}": value for key, value in metadata.items()}
    return schema.with_metadata({"maskmill.schema_version": str(SCHEMA_VERSION), **entries})
