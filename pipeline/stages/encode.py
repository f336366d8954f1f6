"""The encode stage: segment maps become rows of labels, written to staging; the driver gets a receipt for them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.masks.segments import SegmentGeometry, segment_geometry
from maskmill.pipeline.output.folder import ROW_GROUP_BYTES, Output, part_name
from maskmill.pipeline.output.schema import ERRORS, LABELS
from maskmill.pipeline.stages.guard import run_guarded
from maskmill.pipeline.stages.rows import Row, failed

RECEIPTS = pa.schema(
    [
        ("shard", pa.int32()),
        ("rows", pa.list_(pa.int64())),
        ("failed", pa.int32()),
        ("total", pa.int64()),
        ("part", pa.string()),
    ]
)
"""One receipt for each shard of a batch. rows: the rows of the shard that are staged now. failed: how many of these
failed. total: how many rows the shard has, from its end mark, else null. part: name of the staged files, without folder
and ending; null if only the end mark was in the batch."""


SEGMENT_COLUMNS = ("class_ids", "scores", "stability", "agreement", "objectness", "margin")


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """A segment below one of these values is left unlabelled. score, stability: 0..1. area: in pixels of the image."""

    score: float = 0.0
    stability: float = 0.0
    area: int = 0

    def accept(self, row: Row, geometry: SegmentGeometry, at: int) -> bool:
        """Return whether segment ``at`` of the row reaches all thresholds."""
        return (
            row["scores"][at] >= self.score
            and row["stability"][at] >= self.stability
            and geometry.areas[at] >= self.area
        )


class EncodeStage:
    """Takes CLASSIFIED, yields RECEIPTS; writes ``_staging/<attempt>/{labels,errors}/<part>.parquet``."""

    def __init__(
        self,
        output: Output,
        attempt: str,
        shard_ids: Sequence[str],
        class_names: Sequence[str],
        thresholds: Thresholds = Thresholds(),
    ) -> None:
        self.output = output
        self.thresholds = thresholds
        self.attempt = attempt
        self.shard_ids = list(shard_ids)
        self.class_names = list(class_names)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Encode and stage one batch; each shard in it gets a part and a receipt."""
        by_shard: dict[int, list[Row]] = {}
        for row in batch.to_pylist():
            by_shard.setdefault(row["shard"], []).append(row)
        receipts = [self._stage(shard, rows) for shard, rows in by_shard.items()]
        return pa.Table.from_pylist(receipts, schema=RECEIPTS)

    def _stage(self, shard: int, rows: list[Row]) -> dict[str, Any]:
        shard_id = self.shard_ids[shard]
        total = next((row["total"] for row in rows if row["total"] is not None), None)
        images = [row for row in rows if row["total"] is None]
        bad = [row for row in images if row["error_stage"] is not None]
        good = [row for row in images if row["error_stage"] is None]
        labels: list[Row] = []
        for row, result in zip(good, run_guarded(good, self._encode, "encode"), strict=True):
            if isinstance(result, BadImageError):
                bad.append(failed(row, result))
            else:
                labels.append({**result, "shard": shard_id})
        part = f"{shard_id}-{uuid.uuid4().hex}" if images else None
        if labels:
            self.output.write_table(part_name(self.attempt, "labels", part), labels_table(labels))
        if bad:
            errors = [{**row, "shard": shard_id, "stage": row["error_stage"]} for row in bad]
            self.output.write_table(
                part_name(self.attempt, "errors", part), pa.Table.from_pylist(errors, schema=ERRORS)
            )
        return {
            "shard": shard,
            "rows": [row["row"] for row in images],
            "failed": len(bad),
            "total": total,
            "part": part,
        }

    def _encode(self, rows: Sequence[Row]) -> list[Row]:
        return [self._label_row(row) for row in rows]

    def _label_row(self, row: Row) -> Row:
        height, width = row["height"], row["width"]
        segment_map = np.frombuffer(row["segment_map"], np.uint16).reshape(height, width)
        geometry = segment_geometry(segment_map, row["segment_values"])
        kept = [at for at in range(len(geometry.areas)) if self.thresholds.accept(row, geometry, at)]
        areas = [geometry.areas[at] for at in kept]
        lists = {name: [row[name][at] for at in kept] for name in SEGMENT_COLUMNS}
        return {
            **{name: row[name] for name in ("image_id", "uri", "row", "width", "height")},
            **lists,
            "coverage": sum(areas) / (height * width),
            "class_names": [self.class_names[class_id] for class_id in lists["class_ids"]],
            "areas": areas,
            "boxes": [geometry.boxes[at] for at in kept],
            "components": [geometry.components[at] for at in kept],
            "withheld_segments": len(geometry.areas) - len(kept),
            "withheld_pixels": sum(geometry.areas) - sum(areas),
            "rles": [geometry.rles[at] for at in kept],
        }


def labels_table(rows: Sequence[Row]) -> pa.Table:
    """Return rows as a table (schema LABELS) in chunks of about ROW_GROUP_BYTES; an Arrow array holds at most 2 GiB."""
    chunks: list[list[Row]] = [[]]
    size = 0
    for row in rows:
        row_bytes = sum(map(len, row["rles"]))
        if chunks[-1] and size + row_bytes > ROW_GROUP_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(row)
        size += row_bytes
    return pa.concat_tables([pa.Table.from_pylist(chunk, schema=LABELS) for chunk in chunks])
