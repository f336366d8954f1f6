"""The stages before the model: shards become rows of encoded images, those become pixels. Needs no PyTorch."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.sources import ImageRecord, ReadLimits, Shard, ShardError, read_shard
from maskmill.pipeline.stages.rows import ENCODED, META, Row, failed
from maskmill.pipeline.stages.shard_quarantine import PlainReading, ShardReading

DAMAGED_SHARD = "damaged_shard"
"""Error class of the one row that stands for all that could not be read of a broken archive."""
READ_TABLE_ROWS = 96
READ_TABLE_BYTES = 4 * 2**20
"""A table is a task of decoding. Measured on two cores: 96 rows of 128 pixels make the job 3 % faster than 32 do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTask:
    """One shard still to be done. attempts: the only rows wanted and how often each was tried; None means all rows."""

    index: int
    shard: Shard
    attempts: Mapping[int, int] | None = None

    @property
    def rows(self) -> tuple[int, ...] | None:
        """The only rows wanted, None for all."""
        return None if self.attempts is None else tuple(sorted(self.attempts))


class ReadStage:
    """Shard tasks in, encoded images out in tables of bounded rows and bytes, each shard closed by its end mark."""

    def __init__(
        self,
        limits: ReadLimits,
        storage_options: Mapping[str, Any],
        quarantine: Callable[[int, Shard], ShardReading] | None = None,
    ) -> None:
        self.limits = limits
        self.storage_options = dict(storage_options)
        self.quarantine = quarantine

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """batch: column ``task`` of pickled ShardTask; yields tables of schema ENCODED."""
        for pickled in batch["task"].to_pylist():
            task: ShardTask = pickle.loads(pickled)  # noqa: S301 (pickled by this run itself)
            reading = PlainReading() if self.quarantine is None else self.quarantine(task.index, task.shard)
            block: list[Row] = []
            size = 0
            for row in self._rows(task, reading):
                block.append(row)
                size += len(row.get("data") or b"")
                if len(block) >= READ_TABLE_ROWS or size >= READ_TABLE_BYTES:
                    # Ray runs the next stage in this process; what that does to it is not the reader's doing.
                    reading.pause()
                    yield pa.Table.from_pylist(block, schema=ENCODED)
                    block, size = [], 0
            if block:
                yield pa.Table.from_pylist(block, schema=ENCODED)

    def records(self, shard: Shard) -> Iterator[ImageRecord]:
        """Every image of the shard; see :func:`maskmill.pipeline.sources.read_shard`."""
        return read_shard(shard, self.storage_options, limits=self.limits)

    def _rows(self, task: ShardTask, reading: ShardReading) -> Iterator[Row]:
        missing = None if task.attempts is None else set(task.attempts)
        total = 0
        try:
            for record in reading.records(self.records(task.shard)):
                total = record.row + 1
                if missing is not None:
                    if record.row not in missing:
                        continue
                    missing.remove(record.row)
                row = _meta(task, record.row, record.image_id, record.uri)
                yield failed(row, record.error) if record.error else {**row, "data": record.data}
        except ShardError as error:
            # The archive is damaged from here on: what was read counts, and the damage is a row everyone sees.
            row = _meta(task, total, f"{task.shard.shard_id}#damaged", task.shard.uri)
            if missing is None:
                yield failed(row, BadImageError("read", DAMAGED_SHARD, str(error)))
            total += 1
        for gone in sorted(missing or ()):
            missing_row = BadImageError("read", "row_missing", f"the shard has only {total} rows now")
            yield failed(_meta(task, gone, f"{task.shard.shard_id}/{gone}", task.shard.uri), missing_row)
        yield {**_meta(task, total, "", task.shard.uri), "total": total}


def _meta(task: ShardTask, row: int, image_id: str, uri: str) -> Row:
    attempts = 1 + (task.attempts or {}).get(row, 0)
    empty = dict.fromkeys(META.names)
    return {**empty, "shard": task.index, "row": row, "image_id": image_id, "uri": uri, "attempts": attempts}
