"""Runs a training on Ray Train: on one worker or many, on CPUs or GPUs, restarted when a worker dies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ray
import ray.train
import ray.train.torch
from ray.train.torch import TorchTrainer

from maskmill.pipeline.cluster.canary import check_workers
from maskmill.pipeline.cluster.connect import CONNECT_S, connect, joins_running
from maskmill.pipeline.training.metrics_log import last_metrics
from maskmill.pipeline.training.train import TrainRequest, run_training

RESTARTS = 3
"""How often a run whose worker died is restarted from the last checkpoint before it fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """The number of workers and the resources of each. address: a running cluster; None for a local Ray."""

    count: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    address: str | None = None


def train_on_ray(request: TrainRequest, workers: Workers) -> dict[str, float]:
    """Train on Ray and return the last metrics. Raises what ``run_training`` raises in a worker, wrapped by Ray."""
    own_ray = not joins_running(workers.address)
    connect(workers.address, log_to_driver=True)
    check_workers({"num_cpus": workers.cpus}, own_ray=own_ray, timeout_s=CONNECT_S)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"request": request},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})},
        ),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=str(Path(request.out).resolve()),
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
        ),
    )
    trainer.fit()
    return last_metrics(Path(request.out))


def _worker(config: dict[str, TrainRequest]) -> None:
    run_training(config["request"], ray.train.torch.get_device())
