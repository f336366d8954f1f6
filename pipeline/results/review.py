"""Builds the review queue: the segments that a person should look at first, and why. Memory is bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from maskmill.pipeline.output.schema import BOX
from maskmill.pipeline.results.reader import Results

REASONS = {
    "low_score": "The lowest class scores.",
    "disagreement": "Query branch and image branch name the segment differently; the largest regions first.",
    "unstable": "The mask changes much when its threshold moves.",
    "unusual_area": "Far larger or smaller than segments of this class are.",
}
"""Why a segment is in the queue, in the order of the report."""

REVIEW = pa.schema(
    [
        pa.field("reason", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("severity", pa.float64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("segment", pa.int32(), nullable=False),
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("stability", pa.float32(), nullable=False),
        pa.field("agreement", pa.float32(), nullable=False),
        pa.field("margin", pa.float32(), nullable=False),
        pa.field("area", pa.int64(), nullable=False),
        pa.field("area_share", pa.float64(), nullable=False),
        pa.field("box", BOX, nullable=False),
    ]
)
"""One row for each segment to look at; at most one for each image and reason. rank: 1 is looked at first. segment:
position in the lists of the labels row. severity: what the rank follows; comparable within a reason only."""

_PER_IMAGE = ("image_id", "uri", "shard", "row")
_PER_SEGMENT = {
    "class_id": "class_ids",
    "class_name": "class_names",
    "score": "scores",
    "stability": "stability",
    "agreement": "agreement",
    "margin": "margin",
    "area": "areas",
    "box": "boxes",
}
COLUMNS = (*_PER_IMAGE, "width", "height", *_PER_SEGMENT.values())
"""The columns of a labels table that the queue needs."""

LEAST_AREA_SHARE = 0.001
"""Segments below a thousandth of the image are judged by area alone, because specks would fill the other lists."""
LEAST_SEGMENTS = 20
"""A class needs this many segments before its areas are judged."""
UNUSUAL = 2.0
"""An area is unusual if it lies this many times as far from the class's median as the 10th or 90th percentile, in
octaves."""
_LEAST_SPREAD_OCTAVES = 0.5
_BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class _Segments:
    """The segments of one batch, in parallel arrays. image: row of the batch. position: in that row."""

    image: np.ndarray
    position: np.ndarray
    class_id: np.ndarray
    score: np.ndarray
    stability: np.ndarray
    agreement: np.ndarray
    area: np.ndarray
    area_share: np.ndarray


def build_queue(
    results: Results,
    class_rows: Sequence[Mapping[str, Any]],
    per_reason: int,
    most_shards: int | None = None,
) -> pa.Table:
    """Read all finished shards, or ``most_shards`` spread evenly over the run; return the queue (schema REVIEW)."""
    queue = ReviewQueue(class_rows, per_reason)
    for shard_id in results.shard_ids if most_shards is None else results.sample(most_shards):
        for batch in results.batches(shard_id, COLUMNS, batch_rows=_BATCH_ROWS):
            queue.add(batch)
    return queue.table()


class ReviewQueue:
    """Keeps the worst ``per_reason`` segments for each reason while labels stream by."""

    def __init__(self, class_rows: Sequence[Mapping[str, Any]], per_reason: int) -> None:
        """class_rows: rows of CLASS_STATS in id order, which give the usual areas."""
        self._per_reason = per_reason
        self._usual = _usual_areas(class_rows)
        self._kept: dict[str, pa.Table] = {reason: REVIEW.empty_table() for reason in REASONS}

    def add(self, batch: pa.RecordBatch) -> None:
        """Judge the segments of these rows of a labels table (at least COLUMNS)."""
        segments = _segments(batch)
        for reason, judge in self._judges().items():
            severity = judge(segments)
            found = _worst_of_each_image(segments.image, severity, self._per_reason)
            if found.size:
                table = pa.concat_tables([self._kept[reason], _table(reason, batch, segments, found, severity[found])])
                self._kept[reason] = _ranked(table, self._per_reason)

    def table(self) -> pa.Table:
        """Return the queue so far (schema REVIEW), by reason and rank."""
        return pa.concat_tables(self._kept.values())

    def _judges(self) -> dict[str, Callable[[_Segments], np.ndarray]]:
        """Return for each reason a function for the severity of segments, NaN where the reason does not apply."""

        def where_large(segments: _Segments, severity: np.ndarray) -> np.ndarray:
            return np.where(segments.area_share >= LEAST_AREA_SHARE, severity, np.nan)

        return {
            "low_score": lambda s: where_large(s, 1.0 - s.score),
            "disagreement": lambda s: where_large(s, np.where(s.agreement < 0.5, s.area_share, np.nan)),
            "unstable": lambda s: where_large(s, 1.0 - s.stability),
            "unusual_area": self._area_severity,
        }

    def _area_severity(self, segments: _Segments) -> np.ndarray:
        """Return how many times as far from the median as its class's 10th or 90th percentile areas are (octaves)."""
        median, below, above = self._usual[:, segments.class_id]
        octaves = np.log2(np.maximum(segments.area, 1)) - median
        severity = np.where(octaves < 0, -octaves / below, octaves / above)
        return np.where(severity > UNUSUAL, severity, np.nan)


def _usual_areas(class_rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return (3, C): median of log2 area, distances to the 10th and 90th percentile; NaN if there are few segments."""
    usual = np.full((3, len(class_rows)), np.nan)
    for class_id, row in enumerate(class_rows):
        if row["segments"] >= LEAST_SEGMENTS:
            low, median, high = (np.log2(max(1.0, row[f"area_p{p}"])) for p in (10, 50, 90))
            usual[:, class_id] = (
                median,
                max(median - low, _LEAST_SPREAD_OCTAVES),
                max(high - median, _LEAST_SPREAD_OCTAVES),
            )
    return usual


def _segments(batch: pa.RecordBatch) -> _Segments:
    counts = pc.list_value_length(batch["class_ids"]).to_numpy(zero_copy_only=False).astype(np.int64)
    image = np.repeat(np.arange(batch.num_rows), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)

    def flat(name: str) -> np.ndarray:
        return pc.list_flatten(batch[name]).to_numpy(zero_copy_only=False)

    pixels = batch["width"].to_numpy().astype(np.int64) * batch["height"].to_numpy().astype(np.int64)
    area = flat("areas")
    return _Segments(
        image=image,
        position=np.arange(image.size) - first,
        class_id=flat("class_ids"),
        score=flat("scores"),
        stability=flat("stability"),
        agreement=flat("agreement"),
        area=area,
        area_share=area / pixels[image],
    )


def _worst_of_each_image(image: np.ndarray, severity: np.ndarray, most: int) -> np.ndarray:
    """Return the positions of the most severe segments, one of each image; worst first, ties in input order."""
    order = np.argsort(-severity, kind="stable")
    order = order[~np.isnan(severity[order])]
    _, first = np.unique(image[order], return_index=True)
    return order[np.sort(first)[:most]]


def _table(
    reason: str, batch: pa.RecordBatch, segments: _Segments, found: np.ndarray, severity: np.ndarray
) -> pa.Table:
    images, chosen = pa.array(segments.image[found]), pa.array(found)
    columns: dict[str, Any] = {name: batch[name].take(images) for name in _PER_IMAGE}
    columns |= {name: pc.list_flatten(batch[source]).take(chosen) for name, source in _PER_SEGMENT.items()}
    columns |= {
        "reason": pa.array([reason] * found.size),
        "rank": pa.array(np.zeros(found.size, np.int32)),
        "severity": pa.array(severity.astype(np.float64)),
        "segment": pa.array(segments.position[found].astype(np.int32)),
        "area_share": pa.array(segments.area_share[found]),
    }
    return pa.table([columns[name] for name in REVIEW.names], names=REVIEW.names).cast(REVIEW)


def _ranked(table: pa.Table, most: int) -> pa.Table:
    # Sort equal severities by shard and row, so that the queue does not depend on the order of reading.
    keys = [("severity", "descending"), ("shard", "ascending"), ("row", "ascending")]
    table = table.take(pc.sort_indices(table, sort_keys=keys)[:most])
    ranks = pa.array(np.arange(1, table.num_rows + 1, dtype=np.int32))
    return table.set_column(REVIEW.get_field_index("rank"), REVIEW.field("rank"), ranks)
