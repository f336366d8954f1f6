"""What happens on Ray before the graph runs: Ray is started or joined, a worker is tried, the precision is chosen."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import ray

from maskmill.model.spec import ModelSpec
from maskmill.pipeline.cluster import canary
from maskmill.pipeline.cluster.attended import attended
from maskmill.pipeline.cluster.connect import connect
from maskmill.pipeline.cluster.flow import task_nodes
from maskmill.pipeline.cluster.pools import Pools, local_size
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.stages.weights import loadable_spec

DEFAULT_OBJECT_STORE_BYTES = 2 * 2**30
MEASURE_RETRIES = 3


def start_ray(config: LabelConfig) -> tuple[float, float]:
    """Join the cluster, or start a local Ray; return its CPUs and GPUs."""
    cpus, gpus = local_size(config) or (None, None)
    return connect(
        config.address,
        cpus=None if cpus is None else int(cpus),
        gpus=None if gpus is None else int(gpus),
        object_store_bytes=config.object_store_bytes or DEFAULT_OBJECT_STORE_BYTES,
        timeout_s=config.stall_timeout_s,
    )


def check_workers(config: LabelConfig, *, own_ray: bool) -> None:
    """Run one task on a node where the graph's tasks will run. Raises WorkersBrokenError with the reason if it fails.

    own_ray: whether this run started Ray.
    """
    options = {"num_cpus": config.task_cpus, "label_selector": task_nodes(config)}
    canary.check_workers(options, own_ray=own_ray, timeout_s=config.stall_timeout_s)


def measured_dtype(config: LabelConfig, spec: ModelSpec, pools: Pools) -> dict[str, Any]:
    """Have a worker with the CPUs and GPUs of a proposing actor choose the precision. Ray must be running.

    Only an explicit ``--dtype auto`` takes the time to measure on CPUs; on GPUs nothing needs to be measured.
    Returns "dtype", the choice, and "seconds_per_image" of each precision that was measured.
    """
    pool, measured = pools.propose, config.dtype == "auto"

    def choose() -> dict[str, Any]:
        import torch

        from maskmill.model.precision import choose_precision

        torch.set_num_threads(pool.threads)
        return asdict(choose_precision(loadable_spec(spec, config.storage_option), measure=measured))

    remote = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus, max_retries=MEASURE_RETRIES)(choose)
    return attended(lambda: ray.get(remote.remote()), timeout_s=config.stall_timeout_s, what="choosing the precision")
