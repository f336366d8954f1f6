"""The paper's own source of proposals, from its weights."""

from __future__ import annotations

from pathlib import Path

import torch

from maskmill.model.images.resize import InputSize
from maskmill.model.sources.source import SourceDescription
from maskmill.model.zegformer.checkpoint import load_zegformer
from maskmill.model.zegformer.proposer import Proposer


def describe(weights: str | Path) -> SourceDescription:
    """Return what every ZegFormer gives."""
    return SourceDescription(has_queries=True, names=None)


def load(
    weights: str | Path, *, input_size: InputSize, device: torch.device, dtype: torch.dtype, compiled: bool = False
) -> Proposer:
    """Load any ZegFormer weights (``maskmill.model.zegformer.checkpoint.load_zegformer``)."""
    return Proposer(
        load_zegformer(weights).to(device, dtype),
        short_side=input_size.short_side,
        max_long_side=input_size.max_long_side,
        compiled=compiled,
        owns_network=True,
    )
