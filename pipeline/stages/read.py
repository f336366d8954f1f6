"""The read stage: shards become rows of encoded images. It needs no PyTorch."""

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
"""Error class of the row that stands for the unreadable rest of a damaged archive."""
READ_TABLE_ROWS = 96
READ_TABLE_BYTES = 4 * 2**20
"""Each table becomes a decode task. Measured on two cores: tables of 96 images of 128 pixels make the job 3 % faster
than tables of 32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTask:
    """One shard to be labelled. index: its place in the run's list of tasks.

    attempts: the rows to be labelled, and how often each was tried before; None for all rows.
    """

    index: int
    shard: Shard
    attempts: Mapping[int, int] | None = None

    @property
    def rows(self) -> tuple[int, ...] | None:
        """Return the rows to be labelled, None for all."""
        return None if self.attempts is None else tuple(sorted(self.attempts))


class ReadStage:
    """Takes shard tasks, and yields tables of encoded images, of bounded size; each shard ends with an end mark."""

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
        """Read the shards of a batch (column ``task`` of pickled ShardTasks), and yield tables ENCODED."""
        for pickled in batch["task"].to_pylist():
            task: ShardTask = pickle.loads(pickled)  # noqa: S301 (pickled by this run itself)
            reading = PlainReading() if self.quarantine is None else self.quarantine(task.index, task.shard)
            block: list[Row] = []
            size = 0
            for row in self._rows(task, reading):
                block.append(row)
                size += len(row.get("data") or b"")
                if len(block) >= READ_TABLE_ROWS or size >= READ_TABLE_BYTES:
                    # Ray runs the next stage in this process during the yield; the reader must not be blamed for it.
                    reading.pause()
                    yield pa.Table.from_pylist(block, schema=ENCODED)
                    block, size = [], 0
            if block:
                yield pa.Table.from_pylist(block, schema=ENCODED)

    def records(self, shard: Shard) -> Iterator[ImageRecord]:
        """Yield every image of the shard; see :func:`maskmill.pipeline.sources.read_shard`."""
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
            # The rest of the archive is damaged. The rows read so far count, and one more row reports the damage.
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
