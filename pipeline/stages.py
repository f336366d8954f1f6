"""What each stage computes, as plain functions and callable classes over Arrow tables; scheduling is in flow.py."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model import ModelSpec, Segmentation, Vocabulary
from model.classifier import Classifier
from model.preprocess import resize_short_side
from model.presets import load_classifier, load_proposer
from model.proposals import UNLABELLED, Proposals
from model.proposer import Proposer
from pipeline.decode import decode_image
from pipeline.errors import BadImageError
from pipeline.guard import run_guarded
from pipeline.packing import pack_proposals, unpack_proposals
from pipeline.quarantine import Run, no_quarantine
from pipeline.rows import CLASSIFIED, DECODED, ENCODED, META, PROPOSED, Row, failed, transform
from pipeline.sources import ReadLimits, Shard, ShardError, read_shard
from pipeline.weights import cache_directory, local_spec

DAMAGED_SHARD = "damaged_shard"
"""Error class of the one row that stands for all that could not be read of a broken archive."""
READ_TABLE_ROWS = 32
READ_TABLE_BYTES = 2 * 2**20


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

    def __init__(self, limits: ReadLimits, storage_options: Mapping[str, Any]) -> None:
        self.limits = limits
        self.storage_options = dict(storage_options)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """batch: column ``task`` of pickled ShardTask; yields tables of schema ENCODED."""
        for pickled in batch["task"].to_pylist():
            task: ShardTask = pickle.loads(pickled)  # noqa: S301 (pickled by this run itself)
            block: list[Row] = []
            size = 0
            for row in self._rows(task):
                block.append(row)
                size += len(row.get("data") or b"")
                if len(block) >= READ_TABLE_ROWS or size >= READ_TABLE_BYTES:
                    yield pa.Table.from_pylist(block, schema=ENCODED)
                    block, size = [], 0
            if block:
                yield pa.Table.from_pylist(block, schema=ENCODED)

    def _rows(self, task: ShardTask) -> Iterator[Row]:
        missing = None if task.attempts is None else set(task.attempts)
        total = 0
        try:
            for record in read_shard(task.shard, self.storage_options, limits=self.limits):
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


class DecodeStage:
    """Encoded images in, RGB pixels resized for the model out."""

    def __init__(self, max_pixels: int, short_side: int | None, max_long_side: int, run: Run = no_quarantine) -> None:
        self.run = run
        self.max_pixels = max_pixels
        self.short_side = short_side
        self.max_long_side = max_long_side

    def __call__(self, batch: pa.Table) -> pa.Table:
        """ENCODED -> DECODED."""
        return transform(batch, DECODED, lambda rows: run_guarded(rows, self._decode, "decode"), self.run)

    def _decode(self, rows: Sequence[Row]) -> list[Row]:
        return [self._decode_one(row["data"]) for row in rows]

    def _decode_one(self, data: bytes) -> Row:
        image = decode_image(data, max_pixels=self.max_pixels)
        height, width = image.shape[:2]
        if self.short_side is not None:
            image = resize_short_side(image, self.short_side, self.max_long_side)
        return {
            "width": width,
            "height": height,
            "pixel_width": image.shape[1],
            "pixel_height": image.shape[0],
            "pixels": np.ascontiguousarray(image).tobytes(),
        }


def _images(rows: Sequence[Row]) -> list[np.ndarray]:
    shapes = [(row["pixel_height"], row["pixel_width"], 3) for row in rows]
    return [np.frombuffer(row["pixels"], np.uint8).reshape(s) for row, s in zip(rows, shapes, strict=True)]


def _limit_threads(threads: int) -> None:
    # Several actors share a node; each must keep to the CPUs it reserved or they slow each other down.
    torch.set_num_threads(max(1, threads))


@dataclass(frozen=True, kw_only=True, slots=True)
class StageModel:
    """What an actor needs to load its part of the model: plain values, so that each machine loads for itself."""

    spec: ModelSpec
    vocabulary: Vocabulary
    segments: str
    storage_option: Mapping[str, Any]

    def proposer(self) -> Proposer:
        """Load the proposing half."""
        return load_proposer(local_spec(self.spec, self.storage_option))

    def classifier(self) -> Classifier:
        """Load the classifying half."""
        spec = local_spec(self.spec, self.storage_option)
        return load_classifier(spec, self.vocabulary, cache_directory() / "text")


class ProposeStage:
    """Pixels in, class-agnostic proposals out. Weights load once, when the actor starts."""

    def __init__(self, model: StageModel, threads: int, run: Run = no_quarantine) -> None:
        _limit_threads(threads)
        self.run = run
        self.proposer = model.proposer()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """DECODED -> PROPOSED."""
        return transform(batch, PROPOSED, lambda rows: run_guarded(rows, self._propose, "propose"), self.run)

    def _propose(self, rows: Sequence[Row]) -> list[Row]:
        proposals = self.proposer(_images(rows), resized=True, independent=True)
        kept = ("width", "height", "pixel_width", "pixel_height", "pixels")
        return [
            {**{name: row[name] for name in kept}, "proposals": pack_proposals(own)}
            for row, own in zip(rows, proposals, strict=True)
        ]


class ClassifyStage:
    """Pixels and proposals in, the named segments' map out. Text embeddings are made once, when the actor starts."""

    def __init__(self, model: StageModel, threads: int, run: Run = no_quarantine) -> None:
        _limit_threads(threads)
        self.run = run
        self.classifier = model.classifier()
        self.describe = describe_queries if model.segments == "query" else describe_classes

    def __call__(self, batch: pa.Table) -> pa.Table:
        """PROPOSED -> CLASSIFIED."""
        return transform(batch, CLASSIFIED, lambda rows: run_guarded(rows, self._classify, "classify"), self.run)

    def _classify(self, rows: Sequence[Row]) -> list[Row]:
        return self.name_segments(rows, [unpack_proposals(row["proposals"]) for row in rows])

    def name_segments(self, rows: Sequence[Row], proposals: Sequence[Proposals]) -> list[Row]:
        """Classify ``proposals`` of the images in ``rows`` and describe what came out, at original size."""
        sizes = [(row["height"], row["width"]) for row in rows]
        results = self.classifier(_images(rows), proposals, sizes, independent=True)
        described = (self.describe(result) for result in results)
        return [
            {"width": width, "height": height, **own} for (height, width), own in zip(sizes, described, strict=True)
        ]


class SegmentStage:
    """Propose and classify in one actor: nothing but pixels travels, and proposals keep full precision."""

    def __init__(self, model: StageModel, threads: int, run: Run = no_quarantine) -> None:
        self.run = run
        self.classify = ClassifyStage(model, threads)
        self.proposer = model.proposer()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """DECODED -> CLASSIFIED."""
        return transform(batch, CLASSIFIED, self._segment, self.run)

    def _segment(self, rows: list[Row]) -> list[Row | BadImageError]:
        proposed = run_guarded(rows, self._propose, "propose")
        good = [(row, own) for row, own in zip(rows, proposed, strict=True) if not isinstance(own, BadImageError)]
        named = iter(run_guarded(good, self._name, "classify"))
        return [own if isinstance(own, BadImageError) else next(named) for own in proposed]

    def _propose(self, rows: Sequence[Row]) -> list[Proposals]:
        return self.proposer(_images(rows), resized=True, independent=True)

    def _name(self, pairs: Sequence[tuple[Row, Proposals]]) -> list[Row]:
        return self.classify.name_segments([row for row, _ in pairs], [own for _, own in pairs])


Describe = Callable[[Segmentation], dict[str, Any]]


def describe_classes(result: Segmentation) -> dict[str, Any]:
    """One segment per class that has pixels; quality figures are those of the query that gives most to it."""
    values = np.unique(result.label_map)
    classes = [int(value) for value in values if value != UNLABELLED]
    return _describe(result, result.label_map, classes, classes, [int(result.class_queries[c]) for c in classes])


def describe_queries(result: Segmentation) -> dict[str, Any]:
    """One segment per accepted query that has pixels, named by its best class."""
    if result.query_map is None:
        raise RuntimeError("the classifier was not asked for query segments")
    queries = [int(value) for value in np.unique(result.query_map) if value != UNLABELLED]
    classes = [int(result.query_scores[q].argmax()) for q in queries]
    return _describe(result, result.query_map, queries, classes, queries)


def _describe(
    result: Segmentation, segment_map: np.ndarray, values: list[int], classes: list[int], queries: list[int]
) -> dict[str, Any]:
    return {
        "segment_map": np.ascontiguousarray(segment_map).tobytes(),
        "segment_values": values,
        "class_ids": classes,
        "scores": [float(result.query_scores[q, c]) for q, c in zip(queries, classes, strict=True)],
        "stability": [float(result.stability[q]) for q in queries],
        "agreement": [float(result.agreement[q]) for q in queries],
        "objectness": [float(result.objectness[q]) for q in queries],
        "margin": [float(result.margin[q]) for q in queries],
    }
