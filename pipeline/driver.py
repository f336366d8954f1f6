"""The driver's loop: receipts in, commits out, with an eye on signals and on a pipeline that stands still."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from pipeline.commit import CommitRequest, CommitResult
from pipeline.flow import Job, Pools, build_dataset, commit_task
from pipeline.interruption import InterruptedRunError, signals_collected
from pipeline.ledger import Ledger, StagedShard

log = logging.getLogger(__name__)

POLL_S = 0.2
SHUTDOWN_S = 30.0
"""After SIGINT or SIGTERM, commits in flight get this long to finish."""


class StalledError(RuntimeError):
    """No row reached staging for the stall time-out; the message says what was in flight."""


@dataclass(frozen=True, slots=True)
class Committed:
    """One shard has its marker."""

    shard_id: str
    result: CommitResult


@dataclass(frozen=True, slots=True)
class Staged:
    """Some rows reached staging; for progress only."""

    images: int
    failed: int


class _Receipts(threading.Thread):
    """Pulls receipts out of Ray Data, so that the loop can look at other things while it waits for them."""

    def __init__(self, job: Job, pools: Pools) -> None:
        super().__init__(name="receipts", daemon=True)
        self.data, self.trail = build_dataset(job, pools)
        self.queue: queue.Queue[list[dict[str, Any]] | BaseException | None] = queue.Queue()

    def run(self) -> None:
        try:
            batches: Iterable[Any] = self.data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            for batch in batches:
                self.queue.put(batch.to_pylist())
            self.queue.put(None)
        except BaseException as error:  # noqa: BLE001 (handed over whole, and raised by the loop)
            self.queue.put(error)

    def next(self) -> list[dict[str, Any]] | None:
        """The next receipts, [] if there are none yet, None at the end; raises what the pipeline raised."""
        try:
            item = self.queue.get(timeout=POLL_S)
        except queue.Empty:
            return []
        if isinstance(item, BaseException):
            raise item
        return item


def run_job(job: Job, pools: Pools) -> Iterator[Committed | Staged]:
    """Run the graph over the job's tasks and commit every shard as it completes; yields what happened.

    Ray must be running. Raises InterruptedRunError, StalledError, CommitError or what a stage raised; the output is
    resumable in each case.
    """
    commit = commit_task(job.config)
    ledger = Ledger({task.index: len(task.rows) for task in job.tasks if task.rows is not None})
    waiting: dict[Any, str] = {}
    with signals_collected() as received:
        receipts = _Receipts(job, pools)
        try:
            receipts.start()
            last_row_at = time.monotonic()
            while (batch := receipts.next()) is not None:
                for receipt in batch:
                    last_row_at = time.monotonic()
                    if receipt["rows"]:
                        yield Staged(len(receipt["rows"]), receipt["failed"])
                    complete = ledger.add(receipt)
                    if complete is not None:
                        request = _commit_request(job, complete)
                        waiting[commit.remote(job.output, request)] = request.shard.shard_id
                yield from _finished(waiting, timeout_s=0.0)
                if received:
                    yield from _finish_in_flight(waiting)
                    raise InterruptedRunError(received[0])
                if time.monotonic() - last_row_at > job.config.stall_timeout_s:
                    raise StalledError(_diagnosis(job, ledger, waiting, receipts))
            while waiting:
                yield from _finished(waiting, timeout_s=1.0)
                if received:
                    yield from _finish_in_flight(waiting)
                    raise InterruptedRunError(received[0])
        finally:
            receipts.trail.close()
    if len(ledger):
        raise RuntimeError(f"the pipeline ended with incomplete shards: {ledger.describe()}")


def _commit_request(job: Job, staged: StagedShard) -> CommitRequest:
    task = job.tasks[staged.shard]
    return CommitRequest(
        shard=task.shard,
        attempt=job.attempt,
        rows=staged.rows,
        parts=staged.parts,
        run_id=job.run_id,
        fingerprint=job.fingerprint,
        relabelled=task.rows,
    )


def _finished(waiting: dict[Any, str], timeout_s: float) -> Iterator[Committed]:
    if not waiting:
        return
    done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=timeout_s)
    for reference in done:
        yield Committed(waiting.pop(reference), ray.get(reference))


def _finish_in_flight(waiting: dict[Any, str]) -> Iterator[Committed]:
    log.warning("stopping; %d commits in flight may finish", len(waiting))
    deadline = time.monotonic() + SHUTDOWN_S
    while waiting and time.monotonic() < deadline:
        yield from _finished(waiting, timeout_s=1.0)


def _diagnosis(job: Job, ledger: Ledger, waiting: Mapping[Any, str], receipts: _Receipts) -> str:
    try:
        working_on: Any = receipts.trail.describe() or "no rows"
    except ray.exceptions.RayError as error:
        working_on = f"unknown ({type(error).__name__})"
    return (
        f"no row for {job.config.stall_timeout_s:g} s. Stages working on (shard/row): {working_on}; "
        f"shards in flight: {ledger.describe() or 'none'}; commits in flight: {sorted(waiting.values()) or 'none'}; "
        f"free resources: {ray.available_resources()} of {ray.cluster_resources()}"
    )
