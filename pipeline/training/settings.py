"""The settings of the training loop that all trainings share: optimiser, schedule, precision, logging."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LoopSettings(BaseModel):
    """Settings of the training loop. The batch size counts the images of all workers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(ge=1, description="Optimiser steps in all.")
    stop_after_steps: int | None = Field(None, ge=1, description="End early, with the learning rates of the whole run.")
    batch_size: int = Field(ge=1, description="Images per step, over all workers.")
    learning_rate: float = Field(gt=0, description="Highest learning rate of AdamW.")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay of matrices and convolutions (not of norms).")
    schedule: Literal["poly", "one-cycle"] = Field(
        "one-cycle", description="How the learning rate goes over the steps."
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of the gradient of all weights.")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: autocast of the networks.")
    seed: int = Field(0, ge=0, description="Decides first weights, order and augmentation.")
    loader_processes: int = Field(0, ge=0, description="Processes of each worker that prepare batches; 0: in line.")
    log_every_steps: int = Field(50, ge=1, description="Steps between lines of metrics.jsonl.")
    checkpoint_every_steps: int = Field(500, ge=1, description="Steps between checkpoints to resume from.")

    @property
    def last_step(self) -> int:
        """The number of steps that are taken."""
        return self.steps if self.stop_after_steps is None else min(self.steps, self.stop_after_steps)


def learning_rate_factor(settings: LoopSettings, step: int) -> float:
    """Return the share of the highest learning rate at ``step``, counted from 0.

    "poly": linear rise, then (1 - t) ** 0.9 as in the release. "one-cycle": cosine rise from 1/25, cosine fall to 0.
    """
    rise = settings.warmup * settings.steps
    if step < rise:
        share = (step + 1) / (rise + 1)
        return share if settings.schedule == "poly" else 0.04 + 0.96 * (1 - math.cos(math.pi * share)) / 2
    if settings.schedule == "poly":
        return (1 - step / settings.steps) ** 0.9
    share = (step - rise) / max(settings.steps - rise, 1)
    return (1 + math.cos(math.pi * share)) / 2
