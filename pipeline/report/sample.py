"""Chooses the images that the report shows, from a number of shards and rows that does not grow with the run."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from maskmill.pipeline.results.reader import Results
from maskmill.pipeline.results.review import REASONS, ReviewQueue

SHARDS = 10
ROWS_PER_SHARD = 1000
GALLERY_IMAGES = 48
REVIEWED_PER_REASON = 8

Key = tuple[str, int]
"""The shard id and the row of an image."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The first rows of some shards. tables: schema LABELS, one per shard."""

    tables: dict[str, pa.Table]

    @property
    def images(self) -> int:
        """The number of labelled images in the sample."""
        return sum(table.num_rows for table in self.tables.values())

    def rows(self, keys: Iterable[Key]) -> dict[Key, dict[str, Any]]:
        """Return the labels rows of some images."""
        wanted: dict[str, set[int]] = {}
        for shard, row in keys:
            wanted.setdefault(shard, set()).add(row)
        found = {}
        for shard, numbers in wanted.items():
            table = self.tables[shard]
            chosen = table.filter(pc.is_in(table["row"], pa.array(sorted(numbers), pa.int64())))
            found.update({(shard, row["row"]): row for row in chosen.to_pylist()})
        return found


def read_sample(results: Results) -> Sample:
    """Read up to ROWS_PER_SHARD rows of up to SHARDS shards, spread evenly over the run."""
    tables = {}
    for shard_id in results.sample(SHARDS):
        rows = 0
        batches = []
        for batch in results.batches(shard_id, batch_rows=ROWS_PER_SHARD):
            batches.append(batch.slice(0, ROWS_PER_SHARD - rows))
            rows += batches[-1].num_rows
            if rows == ROWS_PER_SHARD:
                break
        if batches:
            tables[shard_id] = pa.Table.from_batches(batches)
    return Sample(tables)


def choose_gallery(sample: Sample, seed: str, most: int = GALLERY_IMAGES) -> list[Key]:
    """Choose images: half at random, half to show as many classes as possible, the rarest first."""
    keys = [(shard, row) for shard, table in sample.tables.items() for row in table["row"].to_pylist()]
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    drawn = rng.permutation(len(keys)).tolist()
    chosen = drawn[: most // 2]
    chosen += _covering(sample, chosen, most - len(chosen))
    chosen += [image for image in drawn if image not in set(chosen)][: most - len(chosen)]
    return [keys[image] for image in sorted(chosen)]


def _covering(sample: Sample, chosen: Sequence[int], most: int) -> list[int]:
    """Return an image for each class that ``chosen`` does not show: the one where the class has the largest share."""
    image, class_id, share = _segments(sample)
    shown = set(class_id[np.isin(image, chosen)].tolist())
    classes, counts = np.unique(class_id, return_counts=True)
    added: list[int] = []
    for rare in classes[np.argsort(counts, kind="stable")].tolist():
        if rare in shown or len(added) == most:
            continue
        candidates = np.flatnonzero(class_id == rare)
        best = int(image[candidates[np.argmax(share[candidates])]])
        if best not in added:
            added.append(best)
        shown |= set(class_id[image == best].tolist())
    return added


def _segments(sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image (counted over all tables), class and share of the image's pixels of every segment."""
    if not sample.tables:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    columns = ["width", "height", "class_ids", "areas"]
    table = pa.concat_tables([table.select(columns) for table in sample.tables.values()]).combine_chunks()
    image = np.repeat(np.arange(table.num_rows), pc.list_value_length(table["class_ids"]).to_numpy())
    pixels = table["width"].to_numpy().astype(np.int64) * table["height"].to_numpy()
    area = pc.list_flatten(table["areas"]).to_numpy()
    return image, pc.list_flatten(table["class_ids"]).to_numpy().astype(np.int64), area / pixels[image]


def choose_review(
    sample: Sample, class_rows: Sequence[dict[str, Any]], per_reason: int = REVIEWED_PER_REASON
) -> dict[str, list[dict[str, Any]]]:
    """Return the head of the sample's review queue: for each reason, rows of schema REVIEW."""
    queue = ReviewQueue(class_rows, per_reason)
    for table in sample.tables.values():
        for batch in table.to_batches():
            queue.add(batch)
    found: dict[str, list[dict[str, Any]]] = {reason: [] for reason in REASONS}
    for row in queue.table().to_pylist():
        found[row["reason"]].append(row)
    return found
