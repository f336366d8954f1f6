"""Joining a Ray cluster, or starting a Ray of our own; either way it keeps quiet, since what fails comes back to us."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipeline.interruption import InterruptedRunError

IDLE_WORKER_S = 600
"""How long a worker between two tasks lives. Ray's second, where there are more processes than CPUs, means that most
tasks of a small machine start a process and import everything: measured, a sixth of a core."""


def joins_running(address: str | None) -> bool:
    """Whether :func:`connect` would use a Ray that runs already: this process's, or the one named."""
    return bool(address or os.environ.get("RAY_ADDRESS")) or ray.is_initialized()


def connect(
    address: str | None, *, object_store_bytes: int, cpus: int | None = None, gpus: int | None = None
) -> tuple[float, float]:
    """Join the Ray of this process, of ``address`` or of RAY_ADDRESS, else start one; returns its CPUs and GPUs.

    The sizes are those of a Ray started here; cpus, gpus: None for all of this machine.
    """
    with _own_sigterm():
        _connect(address, object_store_bytes, cpus, gpus)
    # Ray Data reports every execution in its own words; ours are in the progress line.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    resources = ray.cluster_resources()
    return resources.get("CPU", 0.0), resources.get("GPU", 0.0)


def _connect(address: str | None, object_store_bytes: int, cpus: int | None, gpus: int | None) -> None:
    # Ray tells of its connections, and warns of its own actors' constructor arguments in every run.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not joins_running(address):
        ray.init(
            address="local",  # without it Ray joins whatever cluster was started on this machine last
            num_cpus=cpus,
            num_gpus=gpus,
            object_store_memory=object_store_bytes,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _system_config={"idle_worker_killing_time_threshold_ms": IDLE_WORKER_S * 1000},
        )
    elif not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Starting Ray replaces the handler of SIGTERM by one that exits with the code 15; ours stays in place."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as end:
        if end.code != signal.SIGTERM:
            raise
        raise InterruptedRunError(signal.SIGTERM) from end
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
