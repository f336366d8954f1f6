"""What every measurement records (versions, hardware, time), and the figures as a printed table."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("maskmill", "torch", "torchvision", "open_clip_torch", "ray", "pyarrow", "numpy", "pillow")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instruction sets that decide how fast a CPU multiplies matrices, by Linux's names."""


def environment() -> dict[str, Any]:
    """Return the versions and the hardware of this machine."""
    import torch

    from maskmill.model.networks.instructions import cpu_flags

    flags = cpu_flags()
    return {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "load_before": os.getloadavg()[0],
    }


def _cpu_name() -> str:
    """Return the CPU's name, as Linux knows it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = (
        value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == "model name"
    )
    return next(names, platform.processor())


def peak_bytes() -> int:
    """Return the peak resident memory of this process in bytes.

    On Linux the kernel's line ``VmHWM`` says it. The ``ru_maxrss`` of getrusage does not: a process takes over that of
    the one that started it, so a small process that a large one starts would report the large one's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (peak_kb,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak_kb) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def table_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows as lines of aligned columns; the keys of the first row are the header."""
    if not rows:
        return []
    columns = list(rows[0])
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    return [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def environment_line(environment: dict[str, Any]) -> str:
    """Return the environment in one line."""
    machine = " + ".join([f"{environment['cores']} cores {environment['cpu']}", *environment["gpus"]])
    versions = ", ".join(f"{name} {environment['versions'][name]}" for name in ("python", "torch", "ray"))
    return f"{machine}, {environment['memory_bytes'] / 2**30:.0f} GiB; {versions}; {environment['measured_at']}"
