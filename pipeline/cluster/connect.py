"""Joining a Ray cluster, or starting a Ray of our own; either way it keeps quiet, since what fails comes back to us."""

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
"""How long a worker between two tasks lives. Ray's second, where there are more processes than CPUs, means that most
tasks of a small machine start a process and import everything: measured, a sixth of a core."""

JOB_FOLDER = "MASKMILL_JOB_FOLDER"
"""Environment variable of a job that ``maskmill submit`` sent: where in the upload the user's folder lies."""


CONNECT_S = 900.0
"""Default of how long starting or joining Ray may take."""


def joins_running(address: str | None) -> bool:
    """Whether :func:`connect` would use a Ray that runs already: this process's, or the one named."""
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
    """Join the Ray of this process, of ``address`` or of RAY_ADDRESS, else start one; returns its CPUs and GPUs.

    The sizes are those of a Ray started here; None for Ray's own defaults, all of this machine. log_to_driver: show
    what workers print. Raises InterruptedRunError for a signal, and StalledError where this takes longer than
    ``timeout_s``.
    """
    own_ray = not joins_running(address)
    if not ray.is_initialized():
        # The processes of a Ray of our own end with the thread that starts them, so that thread stays. Ray leaves the
        # handler of SIGTERM alone when it starts outside of the main thread.
        attended(
            lambda: _connect(address, object_store_bytes, cpus, gpus, log_to_driver),
            timeout_s=min(timeout_s, OWN_RAY_ANSWERS_S) if own_ray else timeout_s,
            what="starting Ray" if own_ray else "joining Ray",
            keep_thread=True,
        )
    # Ray Data reports every execution in its own words; ours are in the progress line.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    resources = ray.cluster_resources()
    return resources.get("CPU", 0.0), resources.get("GPU", 0.0)


def _connect(
    address: str | None, object_store_bytes: int | None, cpus: int | None, gpus: int | None, log_to_driver: bool
) -> None:
    # Ray tells of its connections, and warns of its own actors' constructor arguments in every run.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not joins_running(address):
        ray.init(
            address="local",  # without it Ray joins whatever cluster was started on this machine last
            num_cpus=cpus,
            num_gpus=gpus,
            object_store_memory=object_store_bytes,
            include_dashboard=False,
            log_to_driver=log_to_driver,
            logging_level=logging.ERROR,
            job_config=OurImports(),
            _system_config={
                "idle_worker_killing_time_threshold_ms": IDLE_WORKER_S * 1000,
                # Else ray.init waits for the first workers, with Python's lock held: no thread could notice that they
                # never start, and no handler of a signal could run.
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
    """Makes workers import what this process imported, whatever lies in the current folder.

    Ray puts the current folder and the script's folder of the driver first on the path of every worker, where a
    ``model/`` or a ``numpy.py`` of the user's wins over what is installed. This class replaces both.
    """

    def _serialize(self) -> str:
        """Replace the folders that ``ray.init`` has filled in; it calls this to send them to the workers."""
        self._py_driver_sys_path = code_folders()
        return super()._serialize()


def _job_folder_entered() -> dict[str, Callable[[], None]] | None:
    """Runtime environment in which the workers of a submitted job start in the user's folder, as the driver did."""
    folder = os.environ.get(JOB_FOLDER)
    if folder is None:
        return None
    # A lambda travels as code: workers run it before they are told where this project lies.
    return {"worker_process_setup_hook": lambda: os.chdir(folder)}


def code_folders() -> list[str]:
    """The folder that this process imported the project from; none for an installed one, which workers find."""
    folder = str(Path(maskmill.__path__[0]).parent)
    return [] if folder in {*site.getsitepackages(), site.getusersitepackages()} else [folder]
