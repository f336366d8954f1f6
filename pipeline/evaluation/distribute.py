"""Spreads the units of an evaluation over Ray workers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util import ActorPool

from pipeline.evaluation.ground_truth import TruthShard
from pipeline.evaluation.unit import Comparison, UnitEvaluator

OBJECT_STORE_BYTES = 300 * 2**20
"""Units and counts are small; images never pass through the object store."""
MAX_RESTARTS = 3
"""A worker that dies is replaced and its unit done again, so often; then the evaluation fails."""


def evaluate_units(
    comparison: Comparison, units: Sequence[TruthShard], *, workers: int | None, address: str | None
) -> Iterator[int]:
    """Evaluate all units, yielding the number of images of each as it is done, in any order.

    workers: processes, None for one per CPU. address: a running cluster, None for RAY_ADDRESS or a Ray of our own.
    Raises what a unit raised, EvaluationError for data that does not fit above all.
    """
    started = not ray.is_initialized()
    if started:
        _start(address)
    try:
        count = min(len(units), workers or max(1, int(ray.cluster_resources().get("CPU", 1))))
        remote = ray.remote(num_cpus=1, max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS)(UnitEvaluator)
        pool = ActorPool([remote.remote(comparison) for _ in range(count)])
        yield from pool.map_unordered(_evaluate, list(units))
    except RayTaskError as error:
        # Ray's own exception carries the worker's whole traceback in its text; the cause is what happened.
        raise error.cause from None
    finally:
        if started:
            ray.shutdown()


def _evaluate(evaluator: Any, unit: TruthShard) -> Any:
    return evaluator.__call__.remote(unit)


def _start(address: str | None) -> None:
    if address or os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, log_to_driver=False, configure_logging=False)
        return
    ray.init(
        object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, log_to_driver=False, configure_logging=False
    )
