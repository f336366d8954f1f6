"""Spreads the units of an evaluation over Ray workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

from maskmill.pipeline.cluster.attended import WorkersBrokenError
from maskmill.pipeline.cluster.canary import check_workers
from maskmill.pipeline.cluster.connect import CONNECT_S, connect, joins_running
from maskmill.pipeline.evaluation.ground_truth import TruthShard
from maskmill.pipeline.evaluation.unit import Comparison, UnitEvaluator
from maskmill.pipeline.interruption import InterruptedRunError, signals_collected

OBJECT_STORE_BYTES = 300 * 2**20
"""The object store can be small: it holds units and counts, never images."""
SIGNALS_SEEN_S = 0.5
"""The longest time between a signal and the reaction to it."""
MAX_RETRIES = 3
"""How often a unit whose worker died is done again before the evaluation fails."""


def evaluate_units(
    comparison: Comparison, units: Sequence[TruthShard], *, workers: int | None, address: str | None
) -> Iterator[int]:
    """Evaluate all units, yielding the number of images of each unit when it is done, in any order.

    workers: how many units run at once, None for one per CPU. address: a running cluster, None for RAY_ADDRESS or a
    new local Ray.

    Raises what a unit raised (mostly EvaluationError for data that does not fit), InterruptedRunError, and
    WorkersBrokenError where no worker can run anything, or where a unit kills each of its workers.
    """
    started = not ray.is_initialized()
    own_ray = not joins_running(address)
    connect(address, object_store_bytes=OBJECT_STORE_BYTES)
    check_workers({"num_cpus": 1}, own_ray=own_ray, timeout_s=CONNECT_S)
    running: dict[Any, TruthShard] = {}
    try:
        shared = ray.put(comparison)
        evaluate = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_evaluate)
        waiting = deque(units)
        # Collect signals and raise them here: raised inside ray.wait, they would come out as one of Ray's errors.
        with signals_collected() as signals:
            while waiting or running:
                if signals:
                    raise InterruptedRunError(signals[0])
                while waiting and len(running) < (workers or _tasks_at_once()):
                    unit = waiting.popleft()
                    running[evaluate.remote(UnitEvaluator, shared, unit)] = unit
                done, _ = ray.wait(list(running), num_returns=1, timeout=SIGNALS_SEEN_S)
                for task in done:
                    yield _images(task, running.pop(task))
    except RayTaskError as error:
        # Raise the cause, because the text of Ray's exception is the worker's whole traceback.
        raise error.cause from None
    finally:
        for task in running:
            ray.cancel(task)
        if started:
            ray.shutdown()


def _images(task: Any, unit: TruthShard) -> int:
    try:
        return ray.get(task)
    except (WorkerCrashedError, OutOfMemoryError) as error:
        place = unit.part_id if unit.shard is None else f"{unit.part_id} ({unit.shard.uri})"
        raise WorkersBrokenError(
            f"the workers that compared {place} died {MAX_RETRIES + 1} times: its ground truth, or the labels of the "
            f"same images, may be damaged or too large for the memory ({type(error).__name__})"
        ) from error


def _tasks_at_once() -> int:
    """Return how many tasks to keep submitted: twice the CPUs, so that no CPU waits and an autoscaler sees demand.

    Call this each time, since a cluster may grow.
    """
    return max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))


_evaluators: dict[str, UnitEvaluator] = {}
"""The evaluator that this worker used last, with its index of the predictions, by the comparison's fingerprint."""


def _evaluate(evaluator: type[UnitEvaluator], comparison: Comparison, unit: TruthShard) -> int:
    key = f"{comparison.results.uri} {comparison.fingerprint} {hash(comparison.shared)}"
    if key not in _evaluators:
        _evaluators.clear()
        _evaluators[key] = evaluator(comparison)
    return _evaluators[key](unit)
