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

from maskmill.pipeline.cluster.attended import StalledError
from maskmill.pipeline.cluster.canary import WorkerLogs
from maskmill.pipeline.cluster.flow import Job, build_dataset, commit_task
from maskmill.pipeline.cluster.ledger import Ledger, StagedShard
from maskmill.pipeline.cluster.observing import observing
from maskmill.pipeline.cluster.pools import Pools
from maskmill.pipeline.cluster.queues import stage_queues
from maskmill.pipeline.cluster.trail import RemoteTrail
from maskmill.pipeline.interruption import InterruptedRunError, signals_collected
from maskmill.pipeline.output.commit import CommitRequest, CommitResult

log = logging.getLogger(__name__)

POLL_S = 0.2
SHUTDOWN_S = 30.0
"""After SIGINT or SIGTERM, commits in flight get this long to finish."""


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
    """Builds the graph and pulls receipts out of it, so that the loop can look at other things while it waits.

    Building it runs tasks, too, which may wait for ever. trail: None until it is built.
    """

    def __init__(self, job: Job, pools: Pools) -> None:
        super().__init__(name="receipts", daemon=True)
        self.job, self.pools = job, pools
        self.trail: RemoteTrail | None = None
        self.queue: queue.Queue[list[dict[str, Any]] | BaseException | None] = queue.Queue()

    def run(self) -> None:
        try:
            data, self.trail = build_dataset(self.job, self.pools)
            batches: Iterable[Any] = data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
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


class _Watchdog:
    """Tells a pipeline that stands still from one whose workers die and begin again, which the quarantine ends."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.saw_life()

    def saw_life(self) -> None:
        """Some row or commit was finished."""
        self.last_at = time.monotonic()

    def is_stalled(self, trail: RemoteTrail | None) -> bool:
        """Whether there was no sign of life for the time-out; only then the breadcrumbs are asked for one."""
        if time.monotonic() - self.last_at <= self.timeout_s:
            return False
        if trail is None:
            return True
        try:
            idle_s = trail.idle_s()
        except ray.exceptions.RayError:
            return True
        self.last_at = time.monotonic() - idle_s
        return idle_s > self.timeout_s


def run_job(job: Job, pools: Pools) -> Iterator[Committed | Staged]:
    """Run the graph over the job's tasks and commit every shard as it completes; yields what happened.

    Ray must be running. Raises InterruptedRunError, StalledError, CommitError or what a stage raised; the output is
    resumable in each case.
    """
    commit = commit_task(job.config)
    ledger = Ledger({task.index: len(task.rows) for task in job.tasks if task.rows is not None})
    waiting: dict[Any, str] = {}
    with signals_collected() as received:
        logs = WorkerLogs()
        receipts = _Receipts(job, pools)
        try:
            receipts.start()
            watchdog = _Watchdog(job.config.stall_timeout_s)
            batch: list[dict[str, Any]] | None = []
            while batch is not None or waiting:
                if batch is not None:
                    batch = receipts.next()
                for receipt in batch or ():
                    watchdog.saw_life()
                    if receipt["rows"]:
                        yield Staged(len(receipt["rows"]), receipt["failed"])
                    complete = ledger.add(receipt)
                    if complete is not None:
                        request = _commit_request(job, complete)
                        waiting[commit.remote(job.output, request)] = request.shard.shard_id
                for committed in _finished(waiting, timeout_s=POLL_S if batch is None else 0.0):
                    watchdog.saw_life()
                    yield committed
                if received:
                    yield from _finish_in_flight(waiting, received)
                    raise InterruptedRunError(received[0])
                if watchdog.is_stalled(receipts.trail):
                    raise StalledError(_diagnosis(job, ledger, waiting, receipts.trail, logs))
        finally:
            if receipts.trail is not None:
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


def _finish_in_flight(waiting: dict[Any, str], received: list[int]) -> Iterator[Committed]:
    log.warning("stopping; %d commits in flight may finish; a second signal ends them too", len(waiting))
    deadline = time.monotonic() + SHUTDOWN_S
    while waiting and time.monotonic() < deadline and len(received) < 2:
        yield from _finished(waiting, timeout_s=1.0)


def _diagnosis(
    job: Job, ledger: Ledger, waiting: Mapping[Any, str], trail: RemoteTrail | None, logs: WorkerLogs
) -> str:
    working_on: Any = "unknown"
    with observing("the diagnosis of rows at work"):
        working_on = "nothing yet, the graph is being built" if trail is None else trail.describe() or "no rows"
    stages = resources = "unknown"
    with observing("the diagnosis of stages and resources"):
        stages = "; ".join(map(str, stage_queues())) or "none running"
        resources = f"{ray.available_resources()} of {ray.cluster_resources()}"
    error = logs.error()
    return (
        f"no row for {job.config.stall_timeout_s:g} s. Stages working on (shard/row): {working_on}; "
        f"stages: {stages}; "
        f"shards in flight: {ledger.describe() or 'none'}; commits in flight: {sorted(waiting.values()) or 'none'}; "
        f"free resources: {resources}" + ("" if error is None else f"; the last error in the logs of workers:\n{error}")
    )
