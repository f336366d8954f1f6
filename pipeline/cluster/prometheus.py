"""Prometheus metrics of a run. Ray exports them on every node, for its workers; see docs/operations.md.

A metric never ends the work: the first error is logged, and the work goes on.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
from ray.util.metrics import Counter, Gauge

from maskmill.pipeline.cluster.observing import observing
from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.output.statistics import RunSums
from maskmill.pipeline.stages.quarantine import Run
from maskmill.pipeline.stages.rows import Row, Work

CLASSES_COUNTED = 100
"""The first so many classes of the vocabulary have a counter each; all others share one, named OTHER_CLASSES."""
OTHER_CLASSES = "(other)"
TAG_LENGTH = 200
"""Longer tags are cut, and end in a hash of the whole text."""


def tag_of(text: str) -> str:
    """Return ``text`` as the tag of a metric: different for different texts, and in ASCII, because Ray takes no other.

    Letters that are not ASCII, line breaks and backslashes become Python's escapes: "caf\\xe9".
    """
    tag = text.encode("unicode_escape").decode("ascii")
    if len(tag) <= TAG_LENGTH:
        return tag
    digest = hashlib.sha256(tag.encode()).hexdigest()[:8]
    return f"{tag[: TAG_LENGTH - len(digest) - 1]}~{digest}"


class StageMeter:
    """Counts the images and seconds of one stage in one process. Picklable. Ray adds the tags of node and worker."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __reduce__(self) -> tuple[type[StageMeter], tuple[str]]:
        return (StageMeter, (self.stage,))

    @cached_property
    def _counters(self) -> tuple[Counter, Counter]:
        return (
            Counter("maskmill_stage_images", "Images that a stage is done with, failed ones included.", ("stage",)),
            Counter("maskmill_stage_seconds", "Seconds that workers spent in a stage.", ("stage",)),
        )

    def add(self, images: int, seconds: float) -> None:
        """Count ``images`` done in ``seconds``."""
        with observing("the metrics of stages"):
            for counter, value in zip(self._counters, (images, seconds), strict=True):
                _add(counter, value, stage=self.stage)


class MeteredRun:
    """Runs a stage's work through another Run, and counts images and seconds."""

    def __init__(self, stage: str, run: Run) -> None:
        self.meter = StageMeter(stage)
        self.run = run

    def __call__(self, rows: list[Row], work: Work) -> list[Row | BadImageError]:
        """Apply ``run`` to ``rows`` and ``work``."""
        started = time.perf_counter()
        results = self.run(rows, work)
        self.meter.add(len(rows), time.perf_counter() - started)
        return results


def metered_reading(read: Callable[[pa.Table], Iterator[pa.Table]]) -> Callable[[pa.Table], Iterator[pa.Table]]:
    """Return ``read`` (ShardTasks in, ENCODED tables out), counted as stage "read"."""
    meter = StageMeter("read")

    def call(batch: pa.Table) -> Iterator[pa.Table]:
        tables = read(batch)
        while True:
            started = time.perf_counter()
            table = next(tables, None)
            meter.add(0 if table is None else _images(table), time.perf_counter() - started)
            if table is None:
                return
            yield table

    return call


def metered_encoding(encode: Callable[[pa.Table], pa.Table]) -> Callable[[pa.Table], pa.Table]:
    """Return ``encode`` (CLASSIFIED in, RECEIPTS out), counted as stage "encode"."""
    meter = StageMeter("encode")

    def call(batch: pa.Table) -> pa.Table:
        started = time.perf_counter()
        receipts = encode(batch)
        meter.add(_images(batch), time.perf_counter() - started)
        return receipts

    return call


def _images(table: pa.Table) -> int:
    return pc.sum(pc.is_null(table["total"])).as_py() or 0


_RUN_METRICS = "the metrics of the run"


class RunMeter:
    """The metrics of the driver: what was committed, and what is still to be done. No method raises."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = list(class_names)
        with observing(_RUN_METRICS):
            self._register()

    def _register(self) -> None:
        self.images = Counter("maskmill_images", "Images committed, by outcome: labelled or failed.", ("outcome",))
        self.segments = Counter("maskmill_segments", "Segments committed.")
        self.errors = Counter("maskmill_errors", "Failed images, by stage and class.", ("stage", "error_class"))
        self.class_segments = Counter(
            "maskmill_class_segments", f"Segments by class name; beyond {CLASSES_COUNTED} classes: other.", ("class",)
        )
        self.bytes = Counter("maskmill_bytes", "Bytes of input labelled and of output committed.", ("direction",))
        self.shards_pending = Gauge("maskmill_shards_pending", "Shards of this run without a marker.")
        self.images_staged = Gauge("maskmill_images_staged", "Images that wait for the rest of their shard.")

    def committed(self, added: RunSums, bytes_read: int, bytes_written: int) -> None:
        """Count what a commit added."""
        with observing(_RUN_METRICS):
            self._count(added, bytes_read, bytes_written)

    def _count(self, added: RunSums, bytes_read: int, bytes_written: int) -> None:
        for outcome, count in (("labelled", added.labelled), ("failed", added.failed)):
            _add(self.images, count, outcome=outcome)
        _add(self.segments, added.segments)
        for kind, count in added.errors.items():
            stage, _, error_class = kind.partition("/")
            _add(self.errors, count, stage=stage, error_class=error_class)
        for class_id, sums in added.classes.items():
            name = self.class_names[class_id] if class_id < CLASSES_COUNTED else OTHER_CLASSES
            _add(self.class_segments, sums.segments, **{"class": name})
        _add(self.bytes, bytes_read, direction="read")
        _add(self.bytes, bytes_written, direction="written")

    def waiting(self, shards_pending: int, images_staged: int) -> None:
        """Set how much is still to be done."""
        with observing(_RUN_METRICS):
            self.shards_pending.set(shards_pending)
            self.images_staged.set(max(0, images_staged))


def _add(counter: Counter, value: float, **tags: str) -> None:
    if value > 0:
        counter.inc(value, {key: tag_of(text) for key, text in tags.items()})
