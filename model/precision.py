"""Which precision the networks run in: by the device's instructions where those decide, measured where they do not.

GPUs multiply in half precision several times faster than in float32. CPUs do so only with instructions for bfloat16
(avx512_bf16, amx_bf16, bf16 on ARM); without them every number is converted back and forth.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from maskmill.model.choices import Dtype
from maskmill.model.networks.instructions import has_bfloat16_instructions
from maskmill.model.segmenter import load_segmenter
from maskmill.model.spec import ModelSpec, resolve_device
from maskmill.model.vocabulary import Vocabulary

REPEATS = 3
WORTH = 0.9
"""Another precision than float32 is taken only if it needs at most this share of float32's time."""
AMPERE, VOLTA = (8, 0), (7, 0)
"""Compute capabilities from which on NVIDIA's GPUs multiply bfloat16 and float16 in tensor cores."""
CANDIDATES: dict[str, tuple[Dtype, ...]] = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "bfloat16", "float16")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A precision, and the seconds per image by precision it was chosen by; empty where nothing had to be measured."""

    dtype: Dtype
    seconds_per_image: Mapping[Dtype, float]


def choose_precision(spec: ModelSpec, *, measure: bool) -> Choice:
    """Return the precision for the device of ``spec`` on this machine.

    GPUs get the half precision that their tensor cores multiply. CPUs get float32, or with ``measure`` what is fastest
    among the precisions that they have instructions for; that loads the model once for each.
    """
    device = resolve_device(spec.device)
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        half: Dtype = "bfloat16" if capability >= AMPERE else "float16"
        return Choice(dtype=half if capability >= VOLTA else "float32", seconds_per_image={})
    if not measure or has_bfloat16_instructions() is False:
        return Choice(dtype="float32", seconds_per_image={})
    seconds = measure_precisions(spec)
    return Choice(dtype=fastest(seconds), seconds_per_image=seconds)


def measure_precisions(spec: ModelSpec, seed: int = 0) -> dict[Dtype, float]:
    """Return seconds per image by precision on the device of ``spec``, for noise of the model's own input size."""
    side = spec.short_side
    image = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    device = resolve_device(spec.device)
    seconds: dict[Dtype, float] = {}
    for dtype in CANDIDATES.get(device.type, ("float32",)):
        segmenter = load_segmenter(replace(spec, dtype=dtype), Vocabulary(["thing", "stuff"]))
        runs = []
        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            segmenter([image])  # This ends on the host, so the device has finished then.
            runs.append(time.perf_counter() - started)
        seconds[dtype] = min(runs[1:])  # The first run also allocates and chooses kernels.
        del segmenter
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return seconds


def fastest(seconds: Mapping[Dtype, float]) -> Dtype:
    """Return the precision to use: the fastest, or float32 where that gains little."""
    best = min(seconds, key=lambda dtype: seconds[dtype])
    return best if seconds[best] <= WORTH * seconds["float32"] else "float32"
