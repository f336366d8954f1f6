"""Measures the presets for photographs at full size with random weights: CPU seconds by part and peak memory."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from maskmill.model.choices import Dtype
from maskmill.model.segmenter import Segmenter, load_segmenter
from maskmill.model.sources.sam import GridSettings, SamSource
from maskmill.model.spec import ModelSpec
from maskmill.model.vocabulary import ClassEntry, Vocabulary
from maskmill.pipeline.bench.random_weights import write_random_weights
from maskmill.pipeline.bench.result import environment, peak_bytes
from maskmill.pipeline.bench.stopwatch import Stopwatch
from maskmill.pipeline.bench.subjects import NON_EMPTY
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.evaluation.bundled_protocols import bundled_protocol_data

PARTS = ("proposals", "regions", "clip", "fusion", "map")
CLASSES = "ade20k-150"
"""The protocol whose names are the classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoBench:
    """What to measure: each preset on one photograph; the fastest of ``repeats`` passes counts."""

    photograph: str
    presets: Sequence[str]
    dtype: Dtype = "float32"
    repeats: int = 2
    threads: int = 1
    seed: int = 0


def measure_photo(bench: PhotoBench) -> dict[str, Any]:
    """Measure each preset in a process of its own, whose peak memory is that of a worker with this model.

    Weights are written by another process to a temporary folder, 0.8 to 2.7 GB, and loaded as a worker loads them.
    Raises UsageError where the photograph cannot be read.
    """
    read_photograph(bench.photograph)
    found = environment()
    context = multiprocessing.get_context("spawn")
    measured = []
    for preset in bench.presets:
        with tempfile.TemporaryDirectory() as folder:
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as process:
                process.submit(write_random_weights, preset, Path(folder), bench.seed).result()
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as process:
                measured.append(process.submit(measure_preset, bench, preset, Path(folder)).result())
    return {"bench": "photo", "settings": asdict(bench), "environment": found, "presets": measured}


def measure_preset(bench: PhotoBench, preset: str, folder: Path) -> dict[str, Any]:
    """Measure one preset in this process, with the weights in ``folder``/weights and ``folder``/clip."""
    torch.set_num_threads(bench.threads)
    photograph = read_photograph(bench.photograph)
    started = time.perf_counter()
    spec = ModelSpec(
        preset=preset,
        weights=str(folder / "weights"),
        clip=str(folder / "clip"),
        dtype=bench.dtype,
        device="cpu",
    )
    segmenter = load_segmenter(spec, _vocabulary())
    load_seconds = time.perf_counter() - started
    if isinstance(segmenter.proposer, SamSource):
        # Random weights make no mask that the usual limits accept; trained ones leave about so many of a photograph.
        segmenter.proposer.settings = GridSettings(
            least_iou=0,
            least_stability=0,
            box_overlap=2,
            mask_overlap=2,
            most_masks=NON_EMPTY,
            least_cells=0,
            most_share=1,
        )
    stopwatch = _watched(segmenter)
    segmenter([photograph], independent=True)  # The first call pays for allocations and for the choice of kernels.
    seconds, cpu_seconds, parts, masks = float("inf"), float("inf"), {}, 0
    for _ in range(bench.repeats):
        stopwatch.seconds.clear()
        started, cpu_started = time.perf_counter(), time.process_time()
        [result] = segmenter([photograph], independent=True)
        seconds = min(seconds, time.perf_counter() - started)
        if time.process_time() - cpu_started < cpu_seconds:
            cpu_seconds = time.process_time() - cpu_started
            parts, masks = dict(stopwatch.seconds), len(result.objectness)
    return {
        "preset": preset,
        "size": list(segmenter.proposer.input_size.resize(photograph).shape[:2]),
        "load_seconds": load_seconds,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "cpu_parts": {part: parts.get(part, 0.0) for part in PARTS},
        "masks": masks,
        "peak_bytes": peak_bytes(),
    }


def read_photograph(path: str) -> np.ndarray:
    """Return an image file as uint8 (H, W, 3) RGB, upright. Raises UsageError where it is none."""
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise UsageError(f"{path} cannot be read as an image: {error}") from error


def photo_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the result as rows for people: wall seconds, then CPU seconds in all and by part."""
    return [
        {
            "preset": own["preset"],
            "s/image": round(own["seconds"], 1),
            "CPU s": round(own["cpu_seconds"], 1),
            **{part: round(own["cpu_parts"][part], 2) for part in PARTS},
            "peak GB": round(own["peak_bytes"] / 1e9, 2),
            "masks": own["masks"],
            "load s": round(own["load_seconds"], 1),
        }
        for own in result["presets"]
    ]


def _vocabulary() -> Vocabulary:
    # One sentence a class: an image is measured, not the thousands of sentences that a run embeds once.
    names = [entry["name"] for entry in bundled_protocol_data(CLASSES)["classes"]]
    return Vocabulary([ClassEntry(name=name, prompts=("a photo of a {}.",)) for name in names])


def _watched(segmenter: Segmenter) -> Stopwatch:
    stopwatch, classifier = Stopwatch(time.process_time), segmenter.classifier
    stopwatch.watch_method(segmenter.proposer, "_propose", "proposals")
    for name, part in (("_shortlist", "fusion"), ("_look_at", "regions"), ("_score", "fusion")):
        stopwatch.watch_method(classifier.way, name, part)
    stopwatch.watch_method(classifier.way, "_segmentation", "map")
    for name in ("encode", "attend_batch", "pool_batch"):
        stopwatch.watch_method(classifier.encoder, name, "clip")
    return stopwatch
