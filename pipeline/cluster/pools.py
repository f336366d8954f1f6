"""Plans how many actors a run has and what each reserves, and refuses a plan that does not fit the machine."""

from __future__ import annotations

import os
from dataclasses import dataclass

from maskmill.pipeline.cluster.connect import joins_running
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Pool:
    """One actor pool: how many actors, rows per call, and what each actor reserves."""

    actors: int
    batch_size: int
    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        """Return how many CPU threads an actor may use."""
        return max(1, int(self.cpus))


@dataclass(frozen=True, slots=True)
class Pools:
    """The pools of a run. ``classify`` is None if the pool ``propose`` does both."""

    propose: Pool
    classify: Pool | None


def plan_pools(config: LabelConfig, cpus: float, gpus: float) -> Pools:
    """Plan the pools for a cluster of ``cpus`` and ``gpus``; the settings win where they say anything.

    A single pool gets one actor for each device: each GPU, or each CPU core if there are no GPUs. Two pools get half of
    the devices each. All actors together reserve half of the CPUs; the rest is for reading, decoding and encoding.
    Raises UsageError if the cluster is empty and the settings do not say how many actors there are.
    """
    sized_apart = (config.classify_actors, config.classify_cpus, config.classify_gpus)
    split = config.fuse == "off" or (config.fuse == "auto" and any(value is not None for value in sized_apart))
    share = 0.5 if split else 1.0
    if not cpus and config.propose_actors is None:
        raise UsageError(
            "the cluster has no CPUs yet, so nothing to size the pools by; say propose_actors and propose_gpus, and it "
            "can grow to them"
        )
    devices = max(1, int(gpus) if gpus else int(cpus * share))
    own_cpus = min(1.0, cpus * share / 2 / devices) if cpus else 1.0
    own_gpus = share * gpus / devices

    def pool(actors: int | None, batch_size: int, cpus_each: float | None, gpus_each: float | None) -> Pool:
        return Pool(
            actors or devices,
            batch_size,
            own_cpus if cpus_each is None else cpus_each,
            own_gpus if gpus_each is None else gpus_each,
        )

    propose = pool(config.propose_actors, config.propose_batch_size, config.propose_cpus, config.propose_gpus)
    if not split:
        return Pools(propose, None)
    classify = pool(config.classify_actors, config.classify_batch_size, config.classify_cpus, config.classify_gpus)
    return Pools(propose, classify)


def check_fits(pools: Pools, config: LabelConfig, cpus: float, gpus: float) -> None:
    """Raise UsageError if the actors leave no room for tasks, since such a run would wait for ever."""
    both = [pool for pool in (pools.propose, pools.classify) if pool is not None]
    need_cpus = sum(pool.actors * pool.cpus for pool in both) + config.task_cpus
    need_gpus = sum(pool.actors * pool.gpus for pool in both)
    if need_cpus > cpus + 1e-9:
        raise UsageError(
            f"the actors and one task need {need_cpus:g} CPUs, there are {cpus:g}; lower propose_actors, propose_cpus, "
            "classify_actors, classify_cpus or task_cpus"
        )
    if need_gpus > gpus + 1e-9:
        raise UsageError(
            f"the actors need {need_gpus:g} GPUs, there are {gpus:g}; lower propose_actors, propose_gpus, "
            "classify_actors or classify_gpus"
        )


def local_size(config: LabelConfig) -> tuple[float, float] | None:
    """Return the CPUs and GPUs of the local Ray that the run will start; None if it will join a running cluster."""
    if joins_running(config.address):
        return None
    if config.gpus is not None:
        return float(config.cpus or os.cpu_count() or 1), float(config.gpus)
    import torch

    return float(config.cpus or os.cpu_count() or 1), float(torch.cuda.device_count())
