"""Measures the model alone: seconds per image of each part, memory, and how far labels agree with the yardstick's."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from maskmill.model.naming.classifier import Classifier
from maskmill.model.segmenter import Segmenter
from maskmill.model.sources.source import ProposalSource
from maskmill.model.spec import DTYPES
from maskmill.model.zegformer.proposer import Proposer
from maskmill.pipeline.bench.as_released import AsReleased
from maskmill.pipeline.bench.result import environment, peak_bytes
from maskmill.pipeline.bench.stopwatch import Stopwatch
from maskmill.pipeline.bench.subjects import Subject, SubjectName, load_subject

PARTS = ("backbone", "decoder", "regions", "clip", "fusion", "map")
AS_RELEASED = "as-released"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One way to run the model. region: the classifier's setting, or "as-released" for the yardstick in float32."""

    region: str
    dtype: str = "float32"
    min_objectness: float | None = None
    min_visible: int = 0
    compiled: bool = False
    attend_side: int | None = None

    @property
    def name(self) -> str:
        """The name shown in tables."""
        skipping = "" if self.min_objectness is None else f", objectness >= {self.min_objectness:g}"
        skipping += f", visible >= {self.min_visible}" if self.min_visible else ""
        skipping += ", compiled" if self.compiled else ""
        side = "" if self.attend_side is None else f" at {self.attend_side}"
        return f"{self.region}{side}, {self.dtype}{skipping}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelBench:
    """What to measure: ``variants`` of a subject on ``images`` images; the fastest of ``repeats`` passes counts."""

    subject: SubjectName
    variants: Sequence[Variant]
    images: int = 1
    repeats: int = 2
    threads: int = 1
    batch_size: int = 8
    seed: int = 0


def measure_model(bench: ModelBench) -> dict[str, Any]:
    """Measure every variant in a separate process, so that each has a separate peak memory; ratios are to the first."""
    measured, maps = [], []
    for variant in bench.variants:
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as process:
            figures, label_maps = process.submit(measure_variant, bench, variant).result()
        measured.append(figures)
        maps.append(label_maps)
    first = measured[0]
    for figures, label_maps in zip(measured, maps, strict=True):
        figures["speedup"] = first["seconds_per_image"] / figures["seconds_per_image"]
        # CPU seconds vary less than wall time on a machine that others use as well, so report their ratio too.
        figures["cpu_speedup"] = first["cpu_seconds_per_image"] / figures["cpu_seconds_per_image"]
        figures["memory_share"] = figures["peak_bytes"] / first["peak_bytes"]
        figures["same_labels"] = float(np.mean([np.mean(a == b) for a, b in zip(label_maps, maps[0], strict=True)]))
    return {"bench": "model", "settings": asdict(bench), "environment": environment(), "variants": measured}


def measure_variant(bench: ModelBench, variant: Variant) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Measure one variant in this process; returns its figures and label maps."""
    torch.set_num_threads(bench.threads)
    subject = load_subject(bench.subject, bench.images, bench.seed)
    if variant.region == AS_RELEASED:
        model: _Ours | _Yardstick = _Yardstick(subject)
    else:
        model = _Ours(subject, variant, bench.batch_size)
    images = subject.images
    model.run(images[:1])  # the first calls also allocate memory and choose kernels, so they are not timed
    fastest, cpu_seconds, parts, label_maps = float("inf"), float("inf"), {}, []
    for _ in range(bench.repeats):
        model.stopwatch.seconds.clear()
        started, cpu_started = time.perf_counter(), time.process_time()
        label_maps = model.run(images)
        seconds = (time.perf_counter() - started) / len(images)
        cpu_seconds = min(cpu_seconds, (time.process_time() - cpu_started) / len(images))
        if seconds < fastest:
            fastest, parts = seconds, dict(model.stopwatch.seconds)
    figures = {
        "variant": variant.name,
        "seconds_per_image": fastest,
        "cpu_seconds_per_image": cpu_seconds,
        "parts": {part: parts.get(part, 0.0) / len(images) for part in PARTS},
        "peak_bytes": peak_bytes(),
        "non_empty_masks": model.non_empty(images[0]),
    }
    return figures, label_maps


class _Yardstick:
    def __init__(self, subject: Subject) -> None:
        clip = subject.clip()
        classifier = Classifier(clip, subject.vocabulary, replace(subject.settings, region="cropmask"))
        sides = (subject.short_side, subject.max_long_side)
        self.model = AsReleased(subject.network(), clip, classifier, *sides)
        self.stopwatch = self.model.stopwatch

    def run(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self.model(image) for image in images]

    def non_empty(self, image: np.ndarray) -> int:
        proposer = Proposer(self.model.network, short_side=self.model.sides[0], max_long_side=self.model.sides[1])
        return _non_empty(proposer, image)


class _Ours:
    def __init__(self, subject: Subject, variant: Variant, batch_size: int) -> None:
        dtype = DTYPES[variant.dtype]
        settings = subject.settings.changed(
            {
                "region": variant.region,
                "min_objectness": variant.min_objectness,
                "min_visible": variant.min_visible,
                "attend_side": variant.attend_side,
            }
        )
        clip = subject.clip()
        clip.model.visual.to(dtype, memory_format=torch.channels_last)
        classifier = Classifier(clip, subject.vocabulary, settings, compiled=variant.compiled)
        del clip  # frees the text tower, as an actor does
        proposer = Proposer(
            subject.network().to(dtype),
            short_side=subject.short_side,
            max_long_side=subject.max_long_side,
            compiled=variant.compiled,
            owns_network=True,
        )
        self.segmenter = Segmenter(proposer, classifier)
        self.batch_size = batch_size
        self.stopwatch = Stopwatch()
        if not variant.compiled:  # a compiled network does not call the backbone as a separate module
            self.stopwatch.watch_module(proposer.network.backbone, "backbone")
        self.stopwatch.watch_method(proposer, "_propose", "decoder")
        for name, part in (("_shortlist", "fusion"), ("_look_at", "regions"), ("_score", "fusion")):
            self.stopwatch.watch_method(classifier.way, name, part)
        self.stopwatch.watch_method(classifier.way, "_segmentation", "map")
        for name in ("encode", "attend_batch", "pool_batch"):
            self.stopwatch.watch_method(classifier.encoder, name, "clip")

    def run(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        batches = (images[at : at + self.batch_size] for at in range(0, len(images), self.batch_size))
        return [result.label_map for batch in batches for result in self.segmenter(batch, independent=True)]

    def non_empty(self, image: np.ndarray) -> int:
        return _non_empty(self.segmenter.proposer, image)


def _non_empty(proposer: ProposalSource, image: np.ndarray) -> int:
    (proposals,) = proposer([image])
    return int((proposals.mask_logits.flatten(1).amax(dim=1) > 0).sum())


def model_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the result as rows of a printed table: milliseconds per image by part."""
    return [
        {
            "variant": own["variant"],
            "ms/image": round(own["seconds_per_image"] * 1000, 1),
            **{part: round(own["parts"][part] * 1000, 1) for part in PARTS},
            "speed-up": f"{own['speedup']:.2f}x",
            "CPU ms": round(own["cpu_seconds_per_image"] * 1000, 1),
            "CPU speed-up": f"{own['cpu_speedup']:.2f}x",
            "peak GB": round(own["peak_bytes"] / 1e9, 2),
            "masks": own["non_empty_masks"],
            "same labels": f"{own['same_labels']:.3%}",
        }
        for own in result["variants"]
    ]
