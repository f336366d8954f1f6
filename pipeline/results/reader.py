"""Opens a run for reading: its record, its classes, and the rows of its committed shards, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from maskmill.pipeline.decoding.decode import Decoding
from maskmill.pipeline.decoding.samples import FULL_BITS
from maskmill.pipeline.limits import MAX_PIXELS
from maskmill.pipeline.output.folder import CLASSES_FILE, RUN_FILE, Output, labels_name, no_run
from maskmill.pipeline.output.markers import marked_shards
from maskmill.pipeline.pictures.palette import Colour, class_colours
from maskmill.pipeline.results.classes import read_run_classes
from maskmill.pipeline.sources.finder import ImageFinder
from maskmill.pipeline.sources.shard import read_limits
from maskmill.pipeline.storage.files import StorageOptions

BATCH_ROWS = 256
BATCH_BYTES = 32 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class RunClass:
    """One class of a run's vocabulary.

    colour: RGB 0..255, from classes.json or else chosen. seen: whether the model was trained with the class. thing:
    whether it is countable, not stuff. Both are None if unknown.
    """

    class_id: int
    name: str
    seen: bool | None
    colour: Colour
    distractor: bool = False
    thing: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """A run's output, opened for reading.

    run: the contents of run.json. classes: in id order. shard_ids: the shards with a marker, sorted; a labels file
    without a marker is not part of the run.
    """

    output: Output
    run: dict[str, Any]
    classes: tuple[RunClass, ...]
    shard_ids: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Return the class names in id order."""
        return [entry.name for entry in self.classes]

    @property
    def colours(self) -> list[Colour]:
        """Return the class colours in id order."""
        return [entry.colour for entry in self.classes]

    @property
    def has_instances(self) -> bool:
        """Return whether a segment is one object (--segments query), not all pixels of a class in an image."""
        return self.run["config"]["segments"] == "query"

    def batches(
        self, shard_id: str, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Yield the labels of one shard. Memory holds the compressed file, and one batch of about BATCH_BYTES."""
        data = self.output.read_bytes(labels_name(shard_id))
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        # Read the row groups one by one: Arrow cannot read a batch across groups that hold 2 GiB of RLEs together.
        for group in range(file.num_row_groups):
            yield from file.iter_batches(
                batch_size=_batch_rows(file.metadata.row_group(group), columns, batch_rows),
                row_groups=[group],
                columns=None if columns is None else list(columns),
                use_threads=False,
            )

    def row(self, shard_id: str, position: int) -> dict[str, Any]:
        """Return the labels of the image at ``position`` in the shard's table. Raises IndexError beyond its end."""
        for batch in self.batches(shard_id):
            if position < batch.num_rows:
                return batch.slice(position, 1).to_pylist()[0]
            position -= batch.num_rows
        raise IndexError(f"the labels of shard {shard_id} end {position} rows before the one asked for")

    def finder(self) -> ImageFinder:
        """Return what opens the run's images, under the limits that the run was made with."""
        config = self.run["config"]
        return ImageFinder(
            self.output.storage_options,
            config["image_column"],
            read_limits(config),
            Decoding(max_pixels=config.get("max_pixels", MAX_PIXELS), sample_bits=config.get("sample_bits", FULL_BITS)),
            config.get("input"),
        )

    def rows(self, shard_id: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the labels of one shard row by row, in input order."""
        for batch in self.batches(shard_id, columns):
            yield from batch.to_pylist()

    def sample(self, shards: int) -> list[str]:
        """Return at most ``shards`` shard ids, spread evenly over the run; the same ids every time."""
        count = len(self.shard_ids)
        if count <= shards:
            return list(self.shard_ids)
        return [self.shard_ids[position * count // shards] for position in range(shards)]


def _batch_rows(group: pq.RowGroupMetaData, columns: Sequence[str] | None, most: int) -> int:
    """Return how many rows of a row group take about BATCH_BYTES in the columns; ``most`` at most."""
    chunks = [group.column(index) for index in range(group.num_columns)]
    size = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if columns is None or chunk.path_in_schema.partition(".")[0] in columns
    )
    return max(1, min(most, BATCH_BYTES * group.num_rows // max(1, size)))


def open_results(uri: str, storage_options: StorageOptions | None = None) -> Results:
    """Open the output of ``maskmill label``. Raises UsageError if there is no run."""
    output = Output(uri, storage_options)
    run, classes = output.read_json(RUN_FILE), read_run_classes(output)
    if run is None or classes is None:
        raise no_run(uri, RUN_FILE if run is None else CLASSES_FILE)
    return Results(
        output=output,
        run=run,
        classes=_run_classes(classes),
        shard_ids=tuple(marked_shards(output)),
    )


def _run_classes(entries: Sequence[dict[str, Any]]) -> tuple[RunClass, ...]:
    colours = class_colours([entry.get("colour") for entry in entries])
    return tuple(
        RunClass(
            class_id=class_id,
            name=entry["name"],
            seen=entry.get("seen"),
            colour=colours[class_id],
            distractor=bool(entry.get("distractor")),
            thing=entry.get("thing"),
        )
        for class_id, entry in enumerate(entries)
    )
