"""Which precision is fastest on this device: measured on the model itself, because it cannot be told beforehand.

bfloat16 is several times faster than float32 on some CPUs and slower on others.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from maskmill.model.choices import Dtype
from maskmill.model.segmenter import load_segmenter
from maskmill.model.spec import ModelSpec, resolve_device
from maskmill.model.vocabulary import Vocabulary

REPEATS = 3
WORTH = 0.9
"""Another precision than float32 is taken only if it needs at most this share of float32's time."""
CANDIDATES: dict[str, tuple[Dtype, ...]] = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "bfloat16", "float16")}


def measure_precisions(spec: ModelSpec, seed: int = 0) -> dict[str, float]:
    """Return seconds per image by precision on the device of ``spec``, for noise of the model's own input size."""
    side = spec.short_side
    image = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    device = resolve_device(spec.device)
    seconds: dict[str, float] = {}
    for dtype in CANDIDATES.get(device.type, ("float32",)):
        segmenter = load_segmenter(replace(spec, dtype=dtype), Vocabulary(["thing", "stuff"]))
        runs = []
        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            segmenter([image])  # ends on the host, so nothing of it is still under way
            runs.append(time.perf_counter() - started)
        seconds[dtype] = min(runs[1:])  # the first one pays for allocations and kernels' choices
        del segmenter
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return seconds


def fastest(seconds: dict[str, float]) -> str:
    """Return the precision to use: the fastest, or float32 where that gains little."""
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] <= WORTH * seconds["float32"] else "float32"
