"""Spreads the units of an evaluation over Ray workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import ray
from ray.exceptions import RayTaskError
from ray.util import ActorPool

from pipeline.evaluation.ground_truth import TruthShard
from pipeline.evaluation.unit import Comparison, UnitEvaluator

OBJECT_STORE_BYTES = 300 * 2**20
"""Units and counts are small; images never pass through the object store."""
MAX_RESTARTS = 3
"""A worker that dies is replaced and its unit done again, so often; then the evaluation fails."""


class InterruptedEvaluationError(Exception):
    """SIGINT or SIGTERM ended the evaluation; units that were counted stay, and the same command counts the rest."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


def evaluate_units(
    comparison: Comparison, units: Sequence[TruthShard], *, workers: int | None, address: str | None
) -> Iterator[int]:
    """Evaluate all units, yielding the number of images of each as it is done, in any order.

    workers: processes, None for one per CPU. address: a running cluster, None for RAY_ADDRESS or a Ray of our own.
    Raises what a unit raised, EvaluationError for data that does not fit above all, and InterruptedEvaluationError.
    """
    started = not ray.is_initialized()
    if started:
        _start(address)
    try:
        count = min(len(units), workers or max(1, int(ray.cluster_resources().get("CPU", 1))))
        remote = ray.remote(num_cpus=1, max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS)(_Worker)
        pool = ActorPool([remote.remote(UnitEvaluator) for _ in range(count)])
        shared = ray.put(comparison)
        with _signals_raise():
            yield from pool.map_unordered(lambda worker, unit: worker.evaluate.remote(shared, unit), list(units))
    except RayTaskError as error:
        # Ray's own exception carries the worker's whole traceback in its text; the cause is what happened.
        raise error.cause from None
    finally:
        if started:
            ray.shutdown()


class _Worker:
    """One process. It gets the comparison with every unit, so that one started in another's place has it too."""

    def __init__(self, evaluator: type[UnitEvaluator]) -> None:
        self._evaluator_class = evaluator
        self._evaluator: UnitEvaluator | None = None

    def evaluate(self, comparison: Comparison, unit: TruthShard) -> int:
        if self._evaluator is None:
            self._evaluator = self._evaluator_class(comparison)
        return self._evaluator(unit)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise, in the main thread; Ray's own handler would end the process with another code."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise InterruptedEvaluationError(number)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(address: str | None) -> None:
    if address or os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, log_to_driver=False, configure_logging=False)
        return
    ray.init(
        object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, log_to_driver=False, configure_logging=False
    )
