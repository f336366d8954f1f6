"""Which classes a checkpoint was trained with: the seen classes of zero-shot segmentation."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from maskmill.model.errors import CheckpointError

SEEN_CLASSES_KEY = "seen_classes"
"""Entry of a checkpoint's zegformer.json: names of the classes annotated in its training."""


def benchmark_seen_classes(benchmark: str) -> tuple[str, ...]:
    """Return the seen classes of a zero-shot benchmark: "voc", "coco-stuff" or "ade20k-full"; KeyError otherwise."""
    benchmarks = json.loads(files("maskmill.model").joinpath("seen_classes.json").read_text(encoding="utf-8"))
    return tuple(benchmarks[benchmark])


def checkpoint_seen_classes(weights: str | Path) -> tuple[str, ...]:
    """Return the seen classes recorded with our checkpoint, a directory or .safetensors file.

    Empty for checkpoints that record none, as official ones. CheckpointError for a damaged record.
    """
    names = checkpoint_description(weights).get(SEEN_CLASSES_KEY, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{weights}: {SEEN_CLASSES_KEY} must be a list of names")
    return tuple(names)


def checkpoint_description(weights: str | Path) -> dict[str, Any]:
    """Return the JSON that lies in a checkpoint directory of ours, or beside its .safetensors file; else nothing."""
    path = Path(weights)
    description_file = path / "zegformer.json" if path.is_dir() else path.with_suffix(".json")
    if not description_file.is_file():
        return {}
    try:
        description = json.loads(description_file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{description_file} is damaged: {error}") from error
    if not isinstance(description, dict):
        raise CheckpointError(f"{description_file} is damaged: not a JSON object")
    return description
