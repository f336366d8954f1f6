"""Evaluates one unit of ground truth: reads and counts it, and writes its sums, which a later call can read again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from maskmill.pipeline.evaluation.boundary import COLUMNS as BOUNDARY_COLUMNS
from maskmill.pipeline.evaluation.boundary import boundary_counts, f_measure, tolerance_radius
from maskmill.pipeline.evaluation.config import SwappedSides
from maskmill.pipeline.evaluation.confusion import ImageCounts, image_counts
from maskmill.pipeline.evaluation.ground_truth import TruthReader, TruthShard
from maskmill.pipeline.evaluation.index import AMBIGUOUS, MISSING
from maskmill.pipeline.evaluation.overlaps import OverlapsBuilder, SegmentMap
from maskmill.pipeline.evaluation.part import Named, Part, nothing_left_out
from maskmill.pipeline.evaluation.predictions import Prediction, PredictionReader, PredictionSource
from maskmill.pipeline.evaluation.protocol import EvaluationError
from maskmill.pipeline.evaluation.sums import ImageBorders, sums_of
from maskmill.pipeline.evaluation.truth import AbsentTruth, GroundTruth
from maskmill.pipeline.output.folder import Output

PARTS = "_parts"
IMAGES = "images"
_QUARTERS = {"right": 3, "left": 1, "resize": 0}
"""By how many quarters of a circle ground truth is turned counterclockwise."""
_CHUNK = 32
"""How many images' RLEs are parsed together: enough to amortise numpy's calls, few enough for the cache."""
_CHUNK_PIXELS = 2**24
"""The most pixels of a chunk of several images, so that memory is bounded by the largest image."""

IMAGES_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("resized", pa.bool_(), nullable=False),
        pa.field("pixels", pa.int64(), nullable=False),
        pa.field("pixel_accuracy", pa.float64()),
        pa.field("miou", pa.float64()),
        pa.field("boundary_f", pa.float64()),
        pa.field("class_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("intersections", pa.list_(pa.int64()), nullable=False),
        pa.field("gt_pixels", pa.list_(pa.int64()), nullable=False),
        pa.field("pred_pixels", pa.list_(pa.int64()), nullable=False),
    ]
)
"""One row per evaluated image; shares in 0..1, null where undefined; lists hold the classes on either side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What is compared with what, in plain values that can be sent to workers.

    things: (C,) bool. boundary_tolerance: share of the diagonal, None for no boundary figures. swapped_sides: what is
    done with ground truth whose width and height are swapped. shared: positions of predictions that several ground
    truth images match, which are left out. fingerprint: a hash of all that can change a figure, except the unit of
    ground truth and ``shared``.
    """

    results: Output
    predictions: PredictionSource
    truth: TruthReader
    things: np.ndarray
    boundary_tolerance: float | None
    with_panoptic: bool
    swapped_sides: SwappedSides = "refuse"
    shared: frozenset[int] = frozenset()
    fingerprint: str


class UnitEvaluator:
    """Evaluates units one after the other; make one per process, since it keeps the index of the predictions."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._predictions = PredictionReader(comparison.predictions)

    def __call__(self, unit: TruthShard) -> int:
        """Evaluate a unit, write its image table and then its part, and return how many images it compared."""
        comparison = self._comparison
        tally = _Tally(comparison)
        for truths in _chunks(self._present(unit, tally)):
            self._compare(truths, tally)
        part, table = tally.finish()
        comparison.results.write_table(f"{IMAGES}/{unit.part_id}.parquet", table)
        comparison.results.write_json(part_name(unit), part.to_dict(part_fingerprint(comparison, unit)))
        return part.sums.count("images")

    def _present(self, unit: TruthShard, tally: _Tally) -> Iterator[GroundTruth]:
        for truth in self._comparison.truth.read(unit):
            if isinstance(truth, AbsentTruth):
                tally.left_out["ground_truth_files_missing"].add(truth.file)
            else:
                yield truth

    def _compare(self, truths: Sequence[GroundTruth], tally: _Tally) -> None:
        """Count some images, or note why they are left out."""
        positions = self._predictions.find([truth.wanted for truth in truths])
        kept = []
        for truth, position in zip(truths, positions.tolist(), strict=True):
            if position == MISSING:
                tally.left_out["images_without_prediction"].add(truth.image_id)
            elif position == AMBIGUOUS:
                tally.left_out["images_ambiguous"].add(truth.image_id)
            elif position in self._comparison.shared:
                tally.left_out["images_ambiguous"].add(truth.image_id)
                tally.shared.append(position)
            else:
                kept.append((truth, position))
        wanted = [truth.wanted for truth, _ in kept]
        predictions = self._predictions.read([position for _, position in kept], wanted)
        for (truth, _), prediction in zip(kept, predictions, strict=True):
            tally.add(truth, prediction)


@dataclass(slots=True)
class _Tally:
    """What has been counted of a unit so far."""

    comparison: Comparison
    overlaps: OverlapsBuilder = field(default_factory=OverlapsBuilder)
    rows: list[dict[str, Any]] = field(default_factory=list)
    borders: list[float] = field(default_factory=list)
    border_counts: np.ndarray = field(init=False)
    matched: list[int] = field(default_factory=list)
    shared: list[int] = field(default_factory=list)
    left_out: dict[str, Named] = field(default_factory=nothing_left_out)

    def __post_init__(self) -> None:
        self.border_counts = np.zeros((self.comparison.things.size, len(BOUNDARY_COLUMNS)), dtype=np.int64)

    def add(self, truth: GroundTruth, prediction: Prediction) -> None:
        """Count one image."""
        height, width = prediction.height, prediction.width
        self.matched.append(prediction.position)
        if truth.has_swapped_sides(height, width):
            self.left_out["images_with_swapped_sides"].add(
                f"{truth.image_id} (ground truth {truth.index.shape[1]}x{truth.index.shape[0]}, image {width}x{height})"
            )
            if self.comparison.swapped_sides in ("refuse", "skip"):
                return
            truth = truth.turned(_QUARTERS[self.comparison.swapped_sides])
        resized = truth.index.shape != (height, width)
        if resized:
            truth = truth.fitted(height, width)
        if self.comparison.with_panoptic:
            truth = truth.with_components(self.comparison.things)
        segments = truth.segments()
        self.overlaps.add(segments, prediction.segments)
        self._add_borders(segments, prediction)
        self.rows.append({"image_id": truth.image_id, "width": width, "height": height, "resized": resized})

    def _add_borders(self, truth: SegmentMap, prediction: Prediction) -> None:
        tolerance = self.comparison.boundary_tolerance
        if tolerance is None:
            self.borders.append(np.nan)
            return
        classes = self.comparison.things.size
        shape = (prediction.width, prediction.height)
        counts = boundary_counts(
            truth.class_map(classes).reshape(shape),
            prediction.segments.class_map(classes).reshape(shape),
            classes,
            tolerance_radius(prediction.height, prediction.width, tolerance),
        )
        self.border_counts += counts
        present = counts[counts.any(axis=1)]
        self.borders.append(float(f_measure(present).mean()) if present.size else np.nan)

    def finish(self) -> tuple[Part, pa.Table]:
        """Return the part and the image table of the unit."""
        overlaps = self.overlaps.finish()
        images = image_counts(overlaps, self.comparison.things.size)
        borders = np.array(self.borders, dtype=np.float64)
        try:
            sums = sums_of(
                overlaps,
                images,
                ImageBorders(counts=self.border_counts, f=borders),
                resized=sum(row["resized"] for row in self.rows),
                things=self.comparison.things,
                with_panoptic=self.comparison.with_panoptic,
            )
        except ValueError as error:  # raised for scores outside 0..1
            raise EvaluationError(f"predictions: {error}") from error
        part = Part(sums=sums, matched=self.matched, shared=self.shared, left_out=self.left_out)
        return part, _image_table(self.rows, images, borders)


def _image_table(rows: list[dict[str, Any]], images: ImageCounts, borders: np.ndarray) -> pa.Table:
    offsets = pa.array(np.searchsorted(images.image, np.arange(len(rows) + 1)), pa.int32())

    def lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(values, kind))

    columns = [pa.array([row[name] for row in rows]) for name in ("image_id", "width", "height", "resized")]
    columns += [
        pa.array(images.compared),
        pa.array(images.pixel_accuracy(), from_pandas=True),
        pa.array(images.miou(), from_pandas=True),
        pa.array(borders, from_pandas=True),
        lists(images.class_id, pa.int32()),
        lists(images.intersection, pa.int64()),
        lists(images.gt, pa.int64()),
        lists(images.pred, pa.int64()),
    ]
    return pa.Table.from_arrays(
        [column.cast(kind.type) for column, kind in zip(columns, IMAGES_SCHEMA, strict=True)], schema=IMAGES_SCHEMA
    )


def part_name(unit: TruthShard) -> str:
    """Return the name of the unit's part; the unit is done if the part exists and has the right fingerprint."""
    return f"{PARTS}/{unit.part_id}.json"


def part_fingerprint(comparison: Comparison, unit: TruthShard) -> str:
    """Return a hash of what the part depends on."""
    return f"{comparison.fingerprint}-{unit.part_id}-{unit.version}"


def read_part(comparison: Comparison, unit: TruthShard) -> Part | None:
    """Return the unit's part, None if it is missing or was made from other inputs."""
    plain = comparison.results.read_json(part_name(unit))
    if plain is None or plain["fingerprint"] != part_fingerprint(comparison, unit):
        return None
    return Part.from_dict(plain)


def _chunks(truths: Iterable[GroundTruth]) -> Iterator[list[GroundTruth]]:
    chunk: list[GroundTruth] = []
    pixels = 0
    for truth in truths:
        chunk.append(truth)
        pixels += truth.index.size
        if len(chunk) == _CHUNK or pixels >= _CHUNK_PIXELS:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk
