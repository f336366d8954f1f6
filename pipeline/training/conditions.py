"""What the last bits of trained weights depend on besides data and settings: threads, workers, device and versions.

A checkpoint stores these conditions. A resumed run uses the stored number of threads; it cannot restore the other
conditions, so it logs which of them differ.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

CONDITIONS = "conditions"
"""The key of the conditions in a checkpoint's progress."""
THREADS = "threads"
PACKAGES = ("maskmill", "torchvision", "open_clip_torch", "numpy", "pillow")


def conditions(device: torch.device, workers: int) -> dict[str, str | int]:
    """Return the conditions of this process by name: what decides the order in which sums are computed."""
    kind = "CPU " + torch.backends.cpu.get_cpu_capability()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {kind}"
    packages = {package: version(package) for package in PACKAGES}
    versions = {"torch": str(torch.__version__), **packages}  # torch.__version__ also names the build
    return {THREADS: torch.get_num_threads(), "workers": workers, "device": name, **versions}


@contextmanager
def threads_of(checkpoint: Path) -> Iterator[None]:
    """Use as many threads as the run that wrote ``checkpoint``, if the checkpoint exists and states the number."""
    threads = torch.get_num_threads()
    try:
        if checkpoint.exists():
            # Map the file into memory, so that only the few bytes in use are read.
            state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
            torch.set_num_threads(state["progress"].get(CONDITIONS, {}).get(THREADS, threads))
        yield
    finally:
        torch.set_num_threads(threads)


def warn_of_changes(checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Log which conditions differ from those under which the checkpoint was written."""
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        named = ", ".join(f"{name} {before.get(name, 'not recorded')} before and {now[name]} now" for name in changed)
        log.warning(
            "%s was written under other conditions (%s): the training goes on, but its weights will differ in their "
            "last digits from those of a run that was never stopped",
            checkpoint,
            named,
        )
