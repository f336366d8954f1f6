"""Measures the whole job against the bare model on the same cores, and the job with more workers and more images."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pyarrow as pa

from maskmill.pipeline.bench.processes import ProcessMonitor, QueueMonitor
from maskmill.pipeline.bench.result import environment
from maskmill.pipeline.config import LabelConfig, public_settings
from maskmill.pipeline.decoding.decode import Decoding
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.run.execute import Progress, run_plan
from maskmill.pipeline.run.plan import Plan, plan_run
from maskmill.pipeline.shapes.write import ShapesSettings, write_shapes
from maskmill.pipeline.sources import read_limits
from maskmill.pipeline.stages.decode import DecodeStage
from maskmill.pipeline.stages.model import StageModel
from maskmill.pipeline.stages.read import ReadStage

WARM_UP_SHARE = 0.25
"""The share of the images that is left out of the rate, because workers start and pools fill meanwhile."""
BARE_WARM_UP_S = 5.0
BARE_S = 20.0
READY_S = 120.0
"""How long all bare models may take to load and warm up."""
INTERVALS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class JobBench:
    """What to run. images: how many to draw. workers: actors, one per core. settings: of ``label``."""

    images: int
    workers: int
    shard_size: int = 1000
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


def measure_job(bench: JobBench, directory: Path) -> dict[str, Any]:
    """Run the bare model on ``workers`` cores at once, then the job on the same cores.

    The bare models run side by side, because cores share caches and memory, and the pipeline is not to be blamed for
    that loss. The bare models run before and after the job, because a machine's speed varies by the hour; the job is
    compared with the mean of both.

    directory: where the images are drawn (or found, if drawn before) and where the output goes. Raises UsageError for
    more workers than cores.
    """
    _cores(bench.workers)
    source = draw_images(bench, directory)
    before = _bare_images_per_s(bench, source)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        job = process.submit(run_job, bench, source).result()
    after = _bare_images_per_s(bench, source)
    bare = mean((before, after))
    return {
        "settings": {**asdict(bench), "settings": public_settings(bench.settings)},
        "environment": environment(),
        "bare_images_per_s": bare,
        "bare_images_per_s_before": before,
        "bare_images_per_s_after": after,
        **job,
        "efficiency": job["images_per_s"] / (bench.workers * bare),
    }


def draw_images(bench: JobBench, directory: Path) -> Path:
    """Draw the images as tars, unless they are there for this number, seed and shard size, and return their folder."""
    source = directory / f"shapes-{bench.images}-{bench.seed}-{bench.shard_size}"
    if not source.exists():
        partial = source.with_suffix(".partial")
        write_shapes(
            str(partial),
            ShapesSettings(images=bench.images, seed=bench.seed, file_format="wds", shard_size=bench.shard_size),
            {},
        )
        partial.rename(source)
    return source


def _bare_images_per_s(bench: JobBench, source: Path) -> float:
    """Return the mean images per second of ``workers`` models that run side by side, one per core."""
    cores = _cores(bench.workers)
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(len(cores), context) as processes:
        all_ready = manager.Barrier(len(cores))
        rates = [processes.submit(bare_images_per_s, bench, source, core, all_ready.wait) for core in cores]
        return mean(rate.result() for rate in rates)


def _cores(count: int) -> list[int]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        raise UsageError(f"{count} workers need {count} cores, there are {len(cores)}")
    return cores[:count]


def _plan(bench: JobBench, source: Path, output: str) -> Plan:
    settings = {
        "input": f"{source}/*.tar",
        "classes": f"{source}/classes.json",
        "cpus": bench.workers,
        "gpus": 0,
        "propose_actors": bench.workers,
        **bench.settings,
        "output": output,
    }
    return plan_run(LabelConfig(**settings))


def bare_images_per_s(bench: JobBench, source: Path, core: int, wait_for_all: Callable[[float], object]) -> float:
    """Return images per second of the model alone on ``core``, called as the job calls it: pixels in, segments out.

    wait_for_all: called before the measurement with a time-out in seconds; returns when all models are warm.
    """
    import torch

    from maskmill.model.precision import choose_precision

    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as output:
        plan = _plan(bench, source, output)
    spec = plan.spec
    if spec.dtype == "auto":
        spec = replace(spec, dtype=choose_precision(spec, measure=plan.config.dtype == "auto").dtype)
    model = StageModel(spec=spec, vocabulary=plan.vocabulary, segments="semantic", storage_option={})
    proposer, classifier = model.proposer(), model.classifier()
    size = plan.config.propose_batch_size
    tables = [_pixels(table) for table in islice(_decoded(plan), 8)]
    batches = cycle(
        (pixels[at : at + size], sizes[at : at + size])
        for pixels, sizes in tables
        for at in range(0, len(pixels), size)
    )

    def run_for(seconds: float) -> float:
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            pixels, sizes = next(batches)
            classifier(pixels, proposer(pixels, independent=True), sizes, independent=True)
            done += len(pixels)
        return done / (time.perf_counter() - started)

    run_for(BARE_WARM_UP_S)
    wait_for_all(READY_S)
    return run_for(BARE_S)


def _decoded(plan: Plan) -> Iterator[pa.Table]:
    assert plan.spec.max_long_side is not None
    read = ReadStage(read_limits(plan.config.model_dump()), plan.config.storage_option)
    how = Decoding(max_pixels=plan.config.max_pixels, sample_bits=plan.config.sample_bits)
    decode = DecodeStage(how, plan.spec.short_side, plan.spec.max_long_side)
    for task in plan.tasks:
        for table in read(pa.table({"task": [pickle.dumps(task)]})):
            yield from decode(table)


def _pixels(table: pa.Table) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    rows = [row for row in table.to_pylist() if row["pixels"] is not None]
    shape = [(row["pixel_height"], row["pixel_width"], 3) for row in rows]
    images = [np.frombuffer(row["pixels"], np.uint8).reshape(own) for row, own in zip(rows, shape, strict=True)]
    return images, [(row["height"], row["width"]) for row in rows]


def run_job(bench: JobBench, source: Path) -> dict[str, Any]:
    """Run the job in this process and return its rate after warm-up, CPU seconds by stage, and memory over time."""
    os.sched_setaffinity(0, _cores(bench.workers))
    marks: list[tuple[float, int]] = []
    with (
        tempfile.TemporaryDirectory(dir=source.parent) as output,
        ProcessMonitor() as monitor,
        QueueMonitor() as queues,
    ):
        plan = _plan(bench, source, str(Path(output) / "run"))

        def note(progress: Progress) -> None:
            if not marks or progress.images > marks[-1][1]:
                marks.append((time.monotonic(), progress.images))
                if progress.images >= WARM_UP_SHARE * bench.images:
                    queues.start_counting()

        run_plan(plan, note)
    warm = [mark for mark in marks if mark[1] >= WARM_UP_SHARE * bench.images]
    seconds, images = warm[-1][0] - warm[0][0], warm[-1][1] - warm[0][1]
    spent = {stage: own for stage, (own,) in monitor.cpu_seconds((warm[0][0], warm[-1][0])).items()}
    return {
        "images_per_s": images / seconds,
        "cpu_seconds_per_image": {stage: own / images for stage, own in spent.items() if own},
        "queues": queues.figures(),
        "worker_utilisation": spent.get("model", 0.0) / (bench.workers * seconds),
        "peak_bytes": max(memory for _, memory in monitor.memory_bytes),
        "as_it_grows": _growth(marks, monitor),
    }


def _growth(marks: Sequence[tuple[float, int]], monitor: ProcessMonitor) -> dict[str, list[float]]:
    """Return, for equal parts of the run: seconds per image, CPU seconds per image (model, rest), and memory."""
    times, images = np.array(marks).T
    edges = np.linspace(images[0], images[-1], INTERVALS + 1)
    moments = np.interp(edges, images, times)
    spent = monitor.cpu_seconds(moments.tolist())
    model = np.array(spent.pop("model", [0.0] * INTERVALS))
    each = np.diff(edges)
    return {
        "images": edges[1:].tolist(),
        "seconds_per_image": (np.diff(moments) / each).tolist(),
        "model_cpu_seconds_per_image": (model / each).tolist(),
        "other_cpu_seconds_per_image": (np.sum(list(spent.values()), axis=0) / each).tolist(),
        "memory_bytes": _memory(moments, monitor.memory_bytes),
    }


def _memory(edges: Sequence[float], samples: Sequence[tuple[float, int]]) -> list[int]:
    """Return the peak memory between neighbouring ``edges``; a part without a sample takes the nearest sample."""
    most = []
    for start, stop in pairwise(edges):
        inside = [used for at, used in samples if start <= at <= stop]
        nearest = min(samples, key=lambda sample: abs(sample[0] - (start + stop) / 2))
        most.append(max(inside, default=nearest[1]))
    return most


def measure_scale(bench: JobBench, workers: Sequence[int], images: Sequence[int], directory: Path) -> dict[str, Any]:
    """Run the job with each number of workers, and with one number of workers on each number of images."""
    runs = [measure_job(replace(bench, workers=count), directory) for count in workers]
    runs += [measure_job(replace(bench, workers=workers[-1], images=count), directory) for count in images]
    return {"bench": "scale", "environment": environment(), "runs": runs}


def queue_rows(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what waited in front of each stage, as rows of a printed table."""
    return [
        {
            "waiting for": stage,
            "blocks, mean": round(own["mean_blocks"], 1),
            "blocks, most": own["most_blocks"],
            "MB, mean": round(own["mean_bytes"] / 1e6, 2),
            "MB, most": round(own["most_bytes"] / 1e6, 2),
            "not empty": f"{own['share_not_empty']:.0%}",
        }
        for stage, own in run["queues"].items()
    ]


def growth_rows(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what an image cost in each part of a run, as rows of a printed table."""
    grown = run["as_it_grows"]
    return [
        {
            "up to image": round(images),
            "ms/image": round(seconds * 1000, 2),
            "model, CPU ms": round(model * 1000, 2),
            "all else, CPU ms": round(other * 1000, 2),
            "most GB": round(memory / 1e9, 2),
        }
        for images, seconds, model, other, memory in zip(*grown.values(), strict=True)
    ]


def job_rows(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs as rows of a printed table."""
    return [
        {
            "workers": run["settings"]["workers"],
            "images": run["settings"]["images"],
            "images/s": round(run["images_per_s"], 1),
            "bare images/s": round(run["bare_images_per_s"], 1),
            "before, after": f"{run['bare_images_per_s_before']:.1f}, {run['bare_images_per_s_after']:.1f}",
            "efficiency": f"{run['efficiency']:.3f}",
            "workers busy": f"{run['worker_utilisation']:.1%}",
            "peak GB": round(run["peak_bytes"] / 1e9, 2),
            **{f"{stage}, CPU ms": round(spent * 1000, 2) for stage, spent in run["cpu_seconds_per_image"].items()},
        }
        for run in runs
    ]
