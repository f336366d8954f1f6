"""The training loop of every task, for one process or many, started or resumed.

Everything random at a step is computed from (seed, step, position in the batch), so a run that was killed and resumed
takes the same steps as an uninterrupted run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, Sampler

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.training.conditions import CONDITIONS, conditions, warn_of_changes
from maskmill.pipeline.training.metrics_log import MetricsLog, is_finished, last_metrics
from maskmill.pipeline.training.settings import LoopSettings, learning_rate_factor

CHECKPOINT_FILE = "checkpoint.pt"


class TrainingData(Dataset[Any]):
    """A data set indexed by (position, seed); the seed decides the augmentation."""

    def __len__(self) -> int:
        raise NotImplementedError


class Task(Protocol):
    """One kind of training, as the loop sees it."""

    @property
    def module(self) -> nn.Module:
        """The trained module: ``module(batch)`` returns named losses; "loss" is minimised, others are only recorded."""

    @property
    def dataset(self) -> TrainingData:
        """The training data."""

    @property
    def config(self) -> dict[str, Any]:
        """Plain values that must be the same when a run is resumed."""

    def collate(self, items: list[Any]) -> Any:
        """Make a batch of dataset items."""

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Return (factor on the learning rate, parameters) groups."""

    def evaluate(self) -> dict[str, float]:
        """Return figures of the module on held-out data; empty where there is none."""

    def export(self, directory: Path) -> None:
        """Write the trained weights in the format that inference loads."""


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields one worker's batches of (position, seed) from ``first_step`` on; every epoch is a new permutation."""

    def __init__(self, records: int, settings: LoopSettings, first_step: int) -> None:
        self._records, self._settings, self._first_step = records, settings, first_step
        self._rank, self._workers = rank(), workers()

    def __len__(self) -> int:
        return self._settings.last_step - self._first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size, seed = self._settings.batch_size, self._settings.seed
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self._first_step, self._settings.last_step):
            batch = []
            for slot in range(self._rank, size, self._workers):
                drawn = step * size + slot
                if drawn // self._records != epoch:
                    epoch = drawn // self._records
                    order = np.random.default_rng((seed, epoch)).permutation(self._records)
                batch.append((int(order[drawn % self._records]), drawn))
            yield batch


def rank() -> int:
    """Return this worker's number, 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def workers() -> int:
    """Return the number of workers."""
    return dist.get_world_size() if dist.is_initialized() else 1


def train(task: Task, settings: LoopSettings, out: Path, device: torch.device) -> dict[str, float]:
    """Train to the last step, resuming from ``out`` if it holds a checkpoint; return the last metrics.

    The files of a finished run are not changed. Worker 0 writes checkpoint.pt, metrics.jsonl and the exported weights
    to ``out``, which all workers must be able to read. Raises UsageError when ``out`` holds a checkpoint of another
    configuration, or when the batch size is no multiple of the number of workers.
    """
    if settings.batch_size % workers():
        raise UsageError(f"batch_size {settings.batch_size} must be a multiple of the {workers()} workers")
    task.module.to(device).train()
    optimiser = _optimiser(task, settings)
    progress = _resume(task, optimiser, out)
    if progress["step"] == settings.last_step and is_finished(out):
        return last_metrics(out)
    now = conditions(device, workers())
    if progress["step"] and rank() == 0:
        warn_of_changes(out / CHECKPOINT_FILE, progress.get(CONDITIONS, {}), now)
    model = DistributedDataParallel(task.module) if workers() > 1 else task.module
    log = MetricsLog(out, progress["step"]) if rank() == 0 else None
    metrics: dict[str, float] = {}
    clock = _Clock(progress)
    for step, batch in enumerate(_loader(task, settings, progress["step"]), start=progress["step"]):
        torch.manual_seed(int(np.random.SeedSequence((settings.seed, step, rank())).generate_state(1)[0]))
        losses = _step(model, batch, optimiser, settings, step)
        done = step + 1
        is_last = done == settings.last_step
        if is_last or done % settings.log_every_steps == 0:
            metrics = _averaged(losses)  # every worker takes part in the sum
            if log is not None:
                spent = {name: round(seconds, 2) for name, seconds in clock.spent().items()}
                log.write({"step": done, **spent, "lr": optimiser.param_groups[0]["lr"], **metrics})
        if rank() == 0 and (is_last or done % settings.checkpoint_every_steps == 0):
            _save(task, optimiser, out, {"step": done, **clock.spent(), CONDITIONS: now})
    return _finish(task, settings, out, log, metrics)


class _Clock:
    """Measures the time a run has taken, including the time before the checkpoint that it was resumed from."""

    def __init__(self, progress: dict[str, Any]) -> None:
        self._started = time.perf_counter() - progress["seconds"]
        self._started_cpu = time.process_time() - progress["cpu_seconds"]

    def spent(self) -> dict[str, float]:
        """Return "seconds" of wall time and "cpu_seconds" of this process."""
        return {
            "seconds": time.perf_counter() - self._started,
            "cpu_seconds": time.process_time() - self._started_cpu,
        }


def _loader(task: Task, settings: LoopSettings, first_step: int) -> DataLoader[Any]:
    """Return this worker's share of every batch from ``first_step`` on."""
    return DataLoader(
        task.dataset,
        batch_sampler=StepSampler(len(task.dataset), settings, first_step),
        collate_fn=task.collate,
        num_workers=settings.loader_processes,
    )


def _finish(
    task: Task, settings: LoopSettings, out: Path, log: MetricsLog | None, metrics: dict[str, float]
) -> dict[str, float]:
    task.module.eval()
    if log is not None:
        task.export(out)
        metrics = {**metrics, **task.evaluate()}
        log.write({"step": settings.last_step, "final": True, **metrics})
        log.close()
    if dist.is_initialized():
        dist.barrier()
    return metrics


def _optimiser(task: Task, settings: LoopSettings) -> torch.optim.AdamW:
    groups = []
    for factor, parameters in task.parameter_groups():
        # Weight decay applies to matrices only, not to norms, biases and single vectors.
        for decayed in (True, False):
            chosen = [p for p in parameters if p.requires_grad and (p.ndim > 1) == decayed]
            if chosen:
                weight_decay = settings.weight_decay if decayed else 0.0
                groups.append({"params": chosen, "factor": factor, "weight_decay": weight_decay})
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _step(
    model: nn.Module, batch: Any, optimiser: torch.optim.AdamW, settings: LoopSettings, step: int
) -> dict[str, Tensor]:
    factor = learning_rate_factor(settings, step)
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate * group["factor"] * factor
    losses = model(batch)
    optimiser.zero_grad(set_to_none=True)
    losses["loss"].backward()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm, error_if_nonfinite=True)
    optimiser.step()
    return {**{name: value.detach() for name, value in losses.items()}, "gradient_norm": norm.detach()}


def _averaged(losses: dict[str, Tensor]) -> dict[str, float]:
    values = torch.stack([value.float() for value in losses.values()])
    if dist.is_initialized():
        dist.all_reduce(values)
        values = values / workers()
    return {name: round(value, 6) for name, value in zip(losses, values.tolist(), strict=True)}


def _save(task: Task, optimiser: torch.optim.AdamW, out: Path, progress: dict[str, Any]) -> None:
    state = {
        "module": task.module.state_dict(),
        "optimiser": optimiser.state_dict(),
        "progress": progress,
        "config": json.dumps(task.config, sort_keys=True),
    }
    temporary = out / f"{CHECKPOINT_FILE}.{os.getpid()}"
    torch.save(state, temporary)
    os.replace(temporary, out / CHECKPOINT_FILE)


def _resume(task: Task, optimiser: torch.optim.AdamW, out: Path) -> dict[str, Any]:
    """Load the checkpoint in ``out`` if there is one, and return its progress: steps, seconds, conditions."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / CHECKPOINT_FILE
    if not path.exists():
        return {"step": 0, "seconds": 0.0, "cpu_seconds": 0.0}
    state = torch.load(path, map_location="cpu", weights_only=True)
    before = json.loads(state["config"])
    now = json.loads(json.dumps(task.config))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise UsageError(
            f"{out} holds a checkpoint of another configuration (different: {', '.join(changed)}); "
            "use the same settings to resume it, or another --out"
        )
    task.module.load_state_dict(state["module"])
    optimiser.load_state_dict(state["optimiser"])
    return state["progress"]
