"""The stages that run the model: pixels become proposals, and proposals become named segments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from maskmill.model import ModelSpec, Segmentation, Vocabulary
from maskmill.model.naming.classifier import Classifier
from maskmill.model.proposals import UNLABELLED, Proposals
from maskmill.model.sources.source import ProposalSource
from maskmill.model.spec import load_classifier, load_proposer
from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.stages.guard import run_guarded
from maskmill.pipeline.stages.packing import pack_proposals, unpack_proposals
from maskmill.pipeline.stages.quarantine import Run, no_quarantine
from maskmill.pipeline.stages.rows import CLASSIFIED, PROPOSED, Row, transform
from maskmill.pipeline.stages.weights import cache_directory, loadable_spec


def _images(rows: Sequence[Row]) -> list[np.ndarray]:
    shapes = [(row["pixel_height"], row["pixel_width"], 3) for row in rows]
    return [np.frombuffer(row["pixels"], np.uint8).reshape(s) for row, s in zip(rows, shapes, strict=True)]


def _limit_threads(threads: int) -> None:
    # Several actors share a node, and slow each other down unless each keeps to the CPUs that it reserved.
    torch.set_num_threads(max(1, threads))


@dataclass(frozen=True, kw_only=True, slots=True)
class StageModel:
    """What an actor needs to load its part of the model. These are plain values, so each actor loads its weights."""

    spec: ModelSpec
    vocabulary: Vocabulary
    segments: str
    storage_option: Mapping[str, Any]

    def proposer(self) -> ProposalSource:
        """Load the part that proposes segments."""
        return load_proposer(loadable_spec(self.spec, self.storage_option))

    def classifier(self) -> Classifier:
        """Load the part that classifies segments."""
        spec = loadable_spec(self.spec, self.storage_option)
        return load_classifier(spec, self.vocabulary, cache_directory() / "text")


class ProposeStage:
    """Turns pixels into class-agnostic proposals. The weights are loaded once, when the actor starts."""

    def __init__(self, model: StageModel, threads: int, run: Run = no_quarantine) -> None:
        _limit_threads(threads)
        self.run = run
        self.proposer = model.proposer()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Turn a table DECODED into a table PROPOSED."""
        return transform(batch, PROPOSED, lambda rows: run_guarded(rows, self._propose, "propose"), self.run)

    def _propose(self, rows: Sequence[Row]) -> list[Row]:
        proposals = self.proposer(_images(rows), independent=True)
        kept = ("width", "height", "pixel_width", "pixel_height", "pixels")
        return [
            {**{name: row[name] for name in kept}, "proposals": pack_proposals(found)}
            for row, found in zip(rows, proposals, strict=True)
        ]


class ClassifyStage:
    """Turns pixels and proposals into a map of named segments. Text embeddings are made once, when the actor starts."""

    def __init__(self, model: StageModel, threads: int, run: Run = no_quarantine) -> None:
        _limit_threads(threads)
        self.run = run
        self.classifier = model.classifier()
        self.describe = describe_queries if model.segments == "query" else describe_classes

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Turn a table PROPOSED into a table CLASSIFIED."""
        return transform(batch, CLASSIFIED, lambda rows: run_guarded(rows, self._classify, "classify"), self.run)

    def _classify(self, rows: Sequence[Row]) -> list[Row]:
        return self.name_segments(rows, [unpack_proposals(row["proposals"]) for row in rows])

    def name_segments(self, rows: Sequence[Row], proposals: Sequence[Proposals]) -> list[Row]:
        """Classify the ``proposals`` of the images in ``rows``; return columns of CLASSIFIED, at original size."""
        sizes = [(row["height"], row["width"]) for row in rows]
        results = self.classifier(_images(rows), proposals, sizes, independent=True)
        described = (self.describe(result) for result in results)
        return [
            {"width": width, "height": height, **segments}
            for (height, width), segments in zip(sizes, described, strict=True)
        ]


class SegmentStage:
    """Proposes and classifies in one actor, so that proposals need not travel and keep their full precision."""

    def __init__(self, model: StageModel, threads: int, run: Run = no_quarantine) -> None:
        self.run = run
        self.classify = ClassifyStage(model, threads)
        self.proposer = model.proposer()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Turn a table DECODED into a table CLASSIFIED."""
        return transform(batch, CLASSIFIED, self._segment, self.run)

    def _segment(self, rows: list[Row]) -> list[Row | BadImageError]:
        proposed = run_guarded(rows, self._propose, "propose")
        good = [(row, found) for row, found in zip(rows, proposed, strict=True) if not isinstance(found, BadImageError)]
        named = iter(run_guarded(good, self._name, "classify"))
        return [found if isinstance(found, BadImageError) else next(named) for found in proposed]

    def _propose(self, rows: Sequence[Row]) -> list[Proposals]:
        return self.proposer(_images(rows), independent=True)

    def _name(self, pairs: Sequence[tuple[Row, Proposals]]) -> list[Row]:
        return self.classify.name_segments([row for row, _ in pairs], [found for _, found in pairs])


Describe = Callable[[Segmentation], dict[str, Any]]


def describe_classes(result: Segmentation) -> dict[str, Any]:
    """Return one segment for each class that has pixels, with the quality figures of the query that gave it most."""
    values = np.unique(result.label_map)
    classes = [int(value) for value in values if value != UNLABELLED]
    return _describe(result, result.label_map, classes, classes, [int(result.class_queries[c]) for c in classes])


def describe_queries(result: Segmentation) -> dict[str, Any]:
    """Return one segment for each accepted query that has pixels, with the name of its best class."""
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
