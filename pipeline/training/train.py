"""Runs one training in one worker: from the names of data and settings to trained weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import BaseModel

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.storage.addresses import absolute, absolute_if_local
from maskmill.pipeline.training.baseline import BaselineTraining, PerPixelConfig
from maskmill.pipeline.training.classes import read_classes
from maskmill.pipeline.training.clip import ClipConfig, ClipTraining
from maskmill.pipeline.training.conditions import threads_of
from maskmill.pipeline.training.grouping import GroupingConfig, GroupingTraining
from maskmill.pipeline.training.loop import CHECKPOINT_FILE, Task, train
from maskmill.pipeline.training.record_store import RecordStore, open_records
from maskmill.pipeline.training.settings import LoopSettings

CONFIGS: dict[str, type[BaseModel]] = {"grouping": GroupingConfig, "clip": ClipConfig, "baseline": PerPixelConfig}
"""The configuration of each kind of training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRequest:
    """What to train, in plain values that can be sent to workers.

    kind: a key of CONFIGS. data, validation: inputs with label maps, any that ``maskmill label`` reads.
    classes: a class file. out: a folder that all workers can read and write. cache: where data is copied to; None for
    ``out``/cache. config: values of the kind's configuration.
    """

    kind: str
    data: str
    classes: str
    out: str
    config: dict[str, Any]
    validation: str | None = None
    cache: str | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "://" in self.out:
            raise UsageError(f"--out {self.out}: checkpoints go to a folder of a mounted file system, not to a URI")
        # Make the paths absolute, because the current folder of a worker differs from that of this process.
        for name in ("data", "out", "validation", "cache"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, absolute(value))
        object.__setattr__(self, "classes", absolute_if_local(self.classes))


def run_training(request: TrainRequest, device: torch.device) -> dict[str, float]:
    """Train, resuming from ``request.out``, and return the last metrics. Every worker calls this.

    Raises UsageError for wrong data or settings.
    """
    out = Path(request.out)
    cache = Path(request.cache) if request.cache else out / "cache"
    records = _open_once(request.data, cache, request.storage_options)
    validation = _open_once(request.validation, cache, request.storage_options) if request.validation else None
    # Set the threads before the task is made, because it already computes the embeddings of the names.
    with threads_of(out / CHECKPOINT_FILE):
        torch.manual_seed(request.config["loop"]["seed"])
        task, settings = _task(request, records, validation, out)
        return train(task, settings, out, device)


def _open_once(data: str, cache: Path, storage_options: Mapping[str, Any]) -> RecordStore:
    """Let one worker of each machine copy the data before the others open it."""
    copies = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if dist.is_initialized() and not copies:
        dist.barrier()
    records = open_records(data, cache, storage_options)
    if dist.is_initialized() and copies:
        dist.barrier()
    return records


def _task(
    request: TrainRequest, records: RecordStore, validation: RecordStore | None, out: Path
) -> tuple[Task, LoopSettings]:
    classes = read_classes(request.classes, request.storage_options)
    config = CONFIGS[request.kind].model_validate(request.config)
    if isinstance(config, GroupingConfig):
        return GroupingTraining(config, records, classes), config.loop
    if isinstance(config, PerPixelConfig):
        return BaselineTraining(config, records, classes), config.loop
    assert isinstance(config, ClipConfig)
    return ClipTraining(config, records, classes, out, validation), config.loop
