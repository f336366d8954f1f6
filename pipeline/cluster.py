"""Joining a Ray cluster, or starting a Ray of our own; either way it keeps quiet, since what fails comes back to us."""

from __future__ import annotations

import logging
import os

import ray


def joins_running(address: str | None) -> bool:
    """Whether :func:`connect` would use a Ray that runs already: this process's, or the one named."""
    return bool(address or os.environ.get("RAY_ADDRESS")) or ray.is_initialized()


def connect(
    address: str | None, *, object_store_bytes: int, cpus: int | None = None, gpus: int | None = None
) -> tuple[float, float]:
    """Join the Ray of this process, of ``address`` or of RAY_ADDRESS, else start one; returns its CPUs and GPUs.

    The sizes are those of a Ray started here; cpus, gpus: None for all of this machine.
    """
    if not joins_running(address):
        # Ray warns of its own actors' constructor arguments in every run; what fails comes back as an exception.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        ray.init(
            num_cpus=cpus,
            num_gpus=gpus,
            object_store_memory=object_store_bytes,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    elif not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    # Ray Data reports every execution in its own words; ours are in the progress line.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    resources = ray.cluster_resources()
    return resources.get("CPU", 0.0), resources.get("GPU", 0.0)
