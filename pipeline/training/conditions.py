"""What the last bits of trained weights depend on besides data and settings: threads, workers, device and versions.

A checkpoint keeps these conditions. A resumed run takes over the number of threads; it cannot take over the rest, so it
says what is different.
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
"""Their name in the progress that a checkpoint holds."""
THREADS = "threads"
PACKAGES = ("maskmill", "torchvision", "open_clip_torch", "numpy", "pillow")


def conditions(device: torch.device, workers: int) -> dict[str, str | int]:
    """The conditions of this process, by name. Sums are ordered by threads, by workers and by what computes them."""
    kind = "CPU " + torch.backends.cpu.get_cpu_capability()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {kind}"
    packages = {package: version(package) for package in PACKAGES}
    versions = {"torch": str(torch.__version__), **packages}  # torch's own word names the build as well
    return {THREADS: torch.get_num_threads(), "workers": workers, "device": name, **versions}


@contextmanager
def threads_of(checkpoint: Path) -> Iterator[None]:
    """Compute with as many threads as the run that wrote ``checkpoint``, if it exists and says so."""
    threads = torch.get_num_threads()
    try:
        if checkpoint.exists():
            # Mapped: of a large file only the few bytes that are looked at are read.
            state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
            torch.set_num_threads(state["progress"].get(CONDITIONS, {}).get(THREADS, threads))
        yield
    finally:
        torch.set_num_threads(threads)


def warn_of_changes(checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Say in the log which conditions are not those that the checkpoint was written under."""
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        named = ", ".join(f"{name} {before.get(name, 'not recorded')} before and {now[name]} now" for name in changed)
        log.warning(
            "%s was written under other conditions (%s): the training goes on, but its weights will differ in their "
            "last digits from those of a run that was never stopped",
            checkpoint,
            named,
        )
