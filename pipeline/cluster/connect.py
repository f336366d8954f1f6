"""Joins a Ray cluster or starts a local Ray. Ray's log lines are silenced: errors reach this process as exceptions."""

from __future__ import annotations

import logging
import os
import site
from collections.abc import Callable
from pathlib import Path

import ray
from ray.job_config import JobConfig

import maskmill
from maskmill.pipeline.cluster.attended import attended
from maskmill.pipeline.cluster.canary import OWN_RAY_ANSWERS_S

IDLE_WORKER_S = 600
"""How long a worker without a task lives. With Ray's default of one second, on a machine with more processes than CPUs,
most tasks would start a process and import everything: measured, a sixth of a core."""

JOB_FOLDER = "MASKMILL_JOB_FOLDER"
"""Environment variable of a job that ``maskmill submit`` sent: the user's folder within the upload."""


CONNECT_S = 900.0
"""How long starting or joining Ray may take by default."""


def joins_running(address: str | None) -> bool:
    """Return whether :func:`connect` would use a Ray that runs already: that of this process, or the one named."""
    return bool(address or os.environ.get("RAY_ADDRESS")) or ray.is_initialized()


def connect(
    address: str | None,
    *,
    object_store_bytes: int | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    timeout_s: float = CONNECT_S,
    log_to_driver: bool = False,
) -> tuple[float, float]:
    """Join the Ray of this process, of ``address`` or of RAY_ADDRESS, else start one; return its CPUs and GPUs.

    object_store_bytes, cpus, gpus: of a Ray that is started here; None for Ray's defaults, all of this machine.
    log_to_driver: show what workers print. Raises InterruptedRunError on a signal, and StalledError after
    ``timeout_s``.
    """
    own_ray = not joins_running(address)
    if not ray.is_initialized():
        # Keep the thread, because the processes of a local Ray end with the thread that started them. Ray is started
        # outside of the main thread, because there it would replace the handler of SIGTERM.
        attended(
            lambda: _connect(address, object_store_bytes, cpus, gpus, log_to_driver),
            timeout_s=min(timeout_s, OWN_RAY_ANSWERS_S) if own_ray else timeout_s,
            what="starting Ray" if own_ray else "joining Ray",
            keep_thread=True,
        )
    # Silence Ray Data, which reports every execution; the progress line says what a user needs.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    resources = ray.cluster_resources()
    return resources.get("CPU", 0.0), resources.get("GPU", 0.0)


def _connect(
    address: str | None, object_store_bytes: int | None, cpus: int | None, gpus: int | None, log_to_driver: bool
) -> None:
    # Ray's C++ code would log its connections, and a warning about actors of Ray Data in every run.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not joins_running(address):
        ray.init(
            address="local",  # else Ray would join the cluster that was started last on this machine
            num_cpus=cpus,
            num_gpus=gpus,
            object_store_memory=object_store_bytes,
            include_dashboard=False,
            log_to_driver=log_to_driver,
            logging_level=logging.ERROR,
            job_config=OurImports(),
            _system_config={
                "idle_worker_killing_time_threshold_ms": IDLE_WORKER_S * 1000,
                # Otherwise ray.init would wait for the first workers while it holds Python's global lock. If no worker
                # could start, no other thread would notice, and no handler of a signal could run.
                "prestart_worker_first_driver": False,
            },
        )
    else:
        ray.init(
            address=address,
            log_to_driver=log_to_driver,
            logging_level=logging.ERROR,
            job_config=OurImports(),
            runtime_env=_job_folder_entered(),
        )


class OurImports(JobConfig):
    """Makes workers import the modules that this process imported, even if the current folder has others of that name.

    Ray puts the driver's current folder and script folder first on the import path of every worker. There a ``model/``
    or a ``numpy.py`` of the user would win over what is installed, so this class replaces both folders.
    """

    def _serialize(self) -> str:
        """Replace the folders that ``ray.init`` filled in. Ray calls this method when it sends them to the workers."""
        self._py_driver_sys_path = code_folders()
        return super()._serialize()


def _job_folder_entered() -> dict[str, Callable[[], None]] | None:
    """Return the environment of a submitted job's workers: they start in the user's folder, as the driver did."""
    folder = os.environ.get(JOB_FOLDER)
    if folder is None:
        return None
    # Use a lambda, which is sent as code: workers run it before they know where this project lies.
    return {"worker_process_setup_hook": lambda: os.chdir(folder)}


def code_folders() -> list[str]:
    """Return the folder from which this process imported maskmill; none if it is installed, where workers find it."""
    folder = str(Path(maskmill.__path__[0]).parent)
    return [] if folder in {*site.getsitepackages(), site.getusersitepackages()} else [folder]
