"""What a CPU has instructions for, and a word where a network is to run in a precision that it has none for."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import torch

log = logging.getLogger(__name__)

CPU_INFORMATION = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Instructions for products of bfloat16, as Linux names them."""
SLOWER = "ten times as long as float32 (163 against 16 CPU seconds an image, R-50 and ViT-B/16 on a Zen 3)"
"""What bfloat16 takes on a CPU without such instructions; measured side by side."""


def cpu_flags() -> set[str]:
    """Return the instruction sets of this machine's CPU as Linux names them; empty on other systems."""
    if not CPU_INFORMATION.exists():
        return set()
    fields = (line.partition(":") for line in CPU_INFORMATION.read_text().splitlines())
    return next((set(value.split()) for name, _, value in fields if name.strip() in ("flags", "Features")), set())


def has_bfloat16_instructions() -> bool | None:
    """Return whether this machine's CPU multiplies bfloat16; None where the system does not say."""
    flags = cpu_flags()
    return bool(flags & BFLOAT16_FLAGS) if flags else None


@cache
def warn_of_slow_precision(dtype: str, device: torch.device) -> None:
    """Log, once in a process, that a precision was chosen which the device has no instructions for."""
    if dtype == "bfloat16" and device.type == "cpu" and has_bfloat16_instructions() is False:
        log.warning(
            "dtype bfloat16 on a CPU without instructions for it (avx512_bf16, amx_bf16) takes %s; choose float32, or "
            "auto, which looks at the CPU",
            SLOWER,
        )
