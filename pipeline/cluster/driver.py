"""The driver's loop: takes receipts, commits complete shards, and watches for signals and for a graph that stalls."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
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
"""How long the loop waits for receipts, and after the last receipt for commits, before it looks at other things."""
SHUTDOWN_S = 30.0
"""After SIGINT or SIGTERM, commits in flight get this long to finish."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A shard has its marker."""

    shard_id: str
    result: CommitResult


@dataclass(frozen=True, slots=True)
class Staged:
    """Rows were staged. This event is for progress only."""

    images: int
    failed: int


def run_job(job: Job, pools: Pools) -> Iterator[Staged | Committed]:
    """Run the graph over the job's tasks, and commit every shard when all of its rows are staged; yield both events.

    Each round of the loop takes the receipts that have arrived, starts the commits that they make possible, and takes
    the commits that have ended. Ray must be running.

    Raises InterruptedRunError on a signal, StalledError, CommitError, and what a stage raised. The output can be
    resumed in all of these cases.
    """
    with signals_collected() as signals:
        running = _RunningJob(job, pools)
        try:
            running.start()
            while not running.has_ended:
                yield from running.take_receipts()
                yield from running.take_commits()
                if signals:
                    yield from running.finish_commits(signals)
                    raise InterruptedRunError(signals[0])
                running.check_not_stalled()
        finally:
            running.close()
    running.check_complete()


class _RunningJob:
    """The driver's state: receipts on their way, rows of shards in flight, commits in flight."""

    def __init__(self, job: Job, pools: Pools) -> None:
        self._job = job
        self._commit = commit_task(job.config)
        self._ledger = Ledger({task.index: len(task.rows) for task in job.tasks if task.rows is not None})
        self._shards_by_commit: dict[Any, str] = {}
        self._worker_logs = WorkerLogs()
        self._receipts = _Receipts(job, pools)
        self._receipts_ended = False
        self._watchdog = _Watchdog(job.config.stall_timeout_s)

    def start(self) -> None:
        """Begin to build and run the graph."""
        self._receipts.start()
        self._watchdog.saw_life()

    def close(self) -> None:
        """End the actor that holds the breadcrumbs."""
        if self._receipts.trail is not None:
            self._receipts.trail.close()

    @property
    def has_ended(self) -> bool:
        """Whether the graph has given its last receipt and no commit is in flight."""
        return self._receipts_ended and not self._shards_by_commit

    def take_receipts(self) -> Iterator[Staged]:
        """Account for the receipts that have arrived, and start the commit of each shard that they complete."""
        if self._receipts_ended:
            return
        receipts = self._receipts.next()
        if receipts is None:
            self._receipts_ended = True
            return
        for receipt in receipts:
            self._watchdog.saw_life()
            if receipt["rows"]:
                yield Staged(len(receipt["rows"]), receipt["failed"])
            complete = self._ledger.add(receipt)
            if complete is not None:
                self._start_commit(complete)

    def _start_commit(self, staged: StagedShard) -> None:
        task = self._job.tasks[staged.shard]
        request = CommitRequest(
            shard=task.shard,
            attempt=self._job.attempt,
            rows=staged.rows,
            parts=staged.parts,
            run_id=self._job.run_id,
            fingerprint=self._job.fingerprint,
            relabelled=task.rows,
        )
        self._shards_by_commit[self._commit.remote(self._job.output, request)] = task.shard.shard_id

    def take_commits(self) -> Iterator[Committed]:
        """Yield the commits that have ended. Once there are no more receipts to wait for, wait for commits a while."""
        for committed in self._ended_commits(timeout_s=POLL_S if self._receipts_ended else 0.0):
            self._watchdog.saw_life()
            yield committed

    def _ended_commits(self, timeout_s: float) -> Iterator[Committed]:
        in_flight = list(self._shards_by_commit)
        if not in_flight:
            return
        ended, _ = ray.wait(in_flight, num_returns=len(in_flight), timeout=timeout_s)
        for commit in ended:
            yield Committed(self._shards_by_commit.pop(commit), ray.get(commit))

    def finish_commits(self, signals: Sequence[int]) -> Iterator[Committed]:
        """After a signal: yield the commits in flight as they end, for SHUTDOWN_S or until a second signal arrives."""
        log.warning(
            "stopping; %d commits in flight may finish; a second signal ends them too", len(self._shards_by_commit)
        )
        deadline = time.monotonic() + SHUTDOWN_S
        while self._shards_by_commit and time.monotonic() < deadline and len(signals) < 2:
            yield from self._ended_commits(timeout_s=1.0)

    def check_not_stalled(self) -> None:
        """Raise StalledError, with what is known of the graph's state, if nothing has happened for the time-out."""
        if self._watchdog.is_stalled(self._receipts.trail):
            raise StalledError(self._diagnosis())

    def check_complete(self) -> None:
        """Raise RuntimeError if the graph has ended without receipts for all rows."""
        if len(self._ledger):
            raise RuntimeError(f"the pipeline ended with incomplete shards: {self._ledger.describe()}")

    def _diagnosis(self) -> str:
        trail = self._receipts.trail
        working_on: Any = "unknown"
        with observing("the diagnosis of rows at work"):
            working_on = "nothing yet, the graph is being built" if trail is None else trail.describe() or "no rows"
        stages = resources = "unknown"
        with observing("the diagnosis of stages and resources"):
            stages = "; ".join(map(str, stage_queues())) or "none running"
            resources = f"{ray.available_resources()} of {ray.cluster_resources()}"
        error = self._worker_logs.error()
        return (
            f"no row for {self._job.config.stall_timeout_s:g} s. Stages working on (shard/row): {working_on}; "
            f"stages: {stages}; "
            f"shards in flight: {self._ledger.describe() or 'none'}; "
            f"commits in flight: {sorted(self._shards_by_commit.values()) or 'none'}; "
            f"free resources: {resources}"
            + ("" if error is None else f"; the last error in the logs of workers:\n{error}")
        )


class _Receipts(threading.Thread):
    """Builds the graph and takes receipts out of it, so that the driver's loop never waits for long.

    The thread builds the graph as well, because building runs tasks of Ray, which may wait without end. trail: None
    until the graph is built.
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
        except BaseException as error:  # noqa: BLE001 (next() raises the error in the driver's thread)
            self.queue.put(error)

    def next(self) -> list[dict[str, Any]] | None:
        """Return the next receipts, [] if none arrived within POLL_S, None at the end; raise what the graph raised."""
        try:
            item = self.queue.get(timeout=POLL_S)
        except queue.Empty:
            return []
        if isinstance(item, BaseException):
            raise item
        return item


class _Watchdog:
    """Notices a graph that stands still. A graph whose workers die and start again does not; the quarantine ends it."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.saw_life()

    def saw_life(self) -> None:
        """Note that a row or a commit was finished."""
        self.last_at = time.monotonic()

    def is_stalled(self, trail: RemoteTrail | None) -> bool:
        """Return whether the time-out has passed without a row, a commit or, asked of ``trail``, a batch begun."""
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
