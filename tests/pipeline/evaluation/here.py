"""Evaluates units in this process, which is how the distributed evaluation is checked without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from maskmill.pipeline.evaluation.ground_truth import TruthShard
from maskmill.pipeline.evaluation.unit import Comparison, UnitEvaluator


def evaluate_here(comparison: Comparison, units: Sequence[TruthShard]) -> Iterator[int]:
    """Evaluate units one after the other, yielding the number of images of each."""
    return map(UnitEvaluator(comparison), units)
