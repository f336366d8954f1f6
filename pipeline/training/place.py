"""Checks and marks the folder a training writes to: apart from its data, and without replacing other files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.output.ownership import claim, is_claimed, some_names
from maskmill.pipeline.sources.apart import check_apart
from maskmill.pipeline.storage.writable import check_writable
from maskmill.pipeline.training.loop import CHECKPOINT_FILE
from maskmill.pipeline.training.metrics_log import METRICS_FILE
from maskmill.pipeline.training.train import TrainRequest

COMMAND = "train"
_STEMS = ("zegformer", "baseline", "clip", "bpe")
"""The names of exported weights up to the first dot."""


def claim_training(request: TrainRequest) -> None:
    """Check ``request.out``, and mark it as a training's.

    Raises UsageError if it is inside the training data, cannot be written to, or holds files of other origin under the
    names that a training writes.
    """
    for name, data in (("--data", request.data), ("--validation", request.validation)):
        if data is not None:
            check_apart(request.out, data, written="--out", read=name, any_name=True, may_hold=True)
    check_writable(request.out, what="--out")
    output = Output(request.out)
    if is_claimed(output, COMMAND):
        return
    names = sorted(output.entries())
    in_the_way = [name for name in names if name in (CHECKPOINT_FILE, METRICS_FILE) or name.split(".")[0] in _STEMS]
    if in_the_way and not _holds_a_training(Path(request.out)):
        raise UsageError(
            f"--out {request.out} holds files of other origin under names that a training uses: "
            f"{some_names(in_the_way)}. They are not replaced; choose another folder"
        )
    claim(output, COMMAND)


def _holds_a_training(out: Path) -> bool:
    """Return whether a training of an earlier version, which left no mark, wrote here."""
    checkpoint, metrics = out / CHECKPOINT_FILE, out / METRICS_FILE
    try:
        if checkpoint.exists():
            return "optimiser" in torch.load(checkpoint, map_location="meta", weights_only=True)
        first = json.loads(metrics.read_text(encoding="utf-8").partition("\n")[0])
    except (OSError, ValueError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError):
        return False
    return isinstance(first, dict) and "step" in first
