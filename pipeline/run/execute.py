"""Executes a plan: takes the lease, labels what is left to do, and finishes the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from maskmill.pipeline.cluster.observing import observing
from maskmill.pipeline.output.clearing import clear_run, remove_orphans
from maskmill.pipeline.output.lease import LeaseKeeper, held_lease
from maskmill.pipeline.run import history
from maskmill.pipeline.run.costs import cost_of
from maskmill.pipeline.run.history import Attempt, new_attempt, recorded, write_attempt
from maskmill.pipeline.run.plan import Plan
from maskmill.pipeline.run.record import write_record
from maskmill.pipeline.run.summary import RunResult, finish_run, read_result

if TYPE_CHECKING:
    from maskmill.model.spec import ModelSpec
    from maskmill.pipeline.cluster.driver import Committed
    from maskmill.pipeline.cluster.flow import Job
    from maskmill.pipeline.cluster.pools import Pools

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """How far this attempt is. Images of shards that earlier attempts finished do not count."""

    shards_pending: int
    shards_done: int = 0
    images: int = 0
    failed: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    started_at: float = field(default_factory=time.monotonic)

    @property
    def images_per_s(self) -> float:
        """Return the mean rate since labelling began."""
        elapsed_s = time.monotonic() - self.started_at
        return self.images / elapsed_s if elapsed_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Return the seconds to go, from the share of shards done; None before the first shard is done."""
        if not self.shards_done:
            return None
        elapsed_s = time.monotonic() - self.started_at
        return elapsed_s / self.shards_done * (self.shards_pending - self.shards_done)


def run_plan(plan: Plan, on_progress: Callable[[Progress], None]) -> RunResult:
    """Label what the plan says and finish the run. With nothing to do and a summary in place, only read the summary.

    on_progress: called after every event. Raises UsageError if a local Ray would be too small, LeaseHeldError if
    another attempt writes to the output, WorkersBrokenError if no worker can run anything, and what
    ``driver.run_job`` raises.
    """
    if plan.up_to_date or (not plan.tasks and plan.changes is None):
        finished = read_result(plan.output)
        if finished is not None and (plan.up_to_date or _is_of_last_attempt(plan, finished)):
            return _nothing_to_do(plan, finished)
    if plan.tasks:
        _check_size(plan)
    attempt = _attempt(plan)
    with held_lease(plan.output, attempt.attempt, plan.config.take_over) as lease, recorded(plan.output, attempt):
        if plan.start_anew:
            clear_run(plan.output)
        write_record(plan.output, plan.record, plan.vocabulary)
        log.info("attempt begins: %d shards to label", len(plan.tasks), extra={"attempt": attempt.attempt})
        progress = Progress(len(plan.tasks))
        if plan.tasks:
            _label(plan, attempt, lease, progress, on_progress)
        lease.check_now()
        # Every shard is committed, so nobody needs the staged files of this attempt or of killed ones.
        remove_orphans(plan.output, attempt.attempt)
        result = finish_run(plan, attempt)
        too_many = result.failed_share > plan.config.max_failed
        attempt.outcome = history.TOO_MANY_FAILED if too_many else history.COMPLETE
        if plan.nothing_new:
            attempt.outcome = history.NOTHING_NEW
        log.info("attempt ends: %s, %d images", attempt.outcome, attempt.images, extra={"attempt": attempt.attempt})
        return result


def _is_of_last_attempt(plan: Plan, finished: RunResult) -> bool:
    """Return whether nothing was committed since the summary was written, for example by a retry that was killed."""
    if finished.summary["shards"] != len(plan.shard_ids):
        return False
    return not history.attempts_since(plan.output, finished.summary["attempt"])


def _attempt(plan: Plan) -> Attempt:
    attempt = new_attempt(plan.record.run_id)
    attempt.incremental = plan.changes is not None
    if plan.changes is None:
        attempt.shards_new = len(plan.tasks)
    else:
        attempt.shards_new, attempt.shards_changed = len(plan.changes.new), len(plan.changes.changed)
        attempt.vanished, attempt.shards_superseded = list(plan.changes.vanished), len(plan.changes.superseded)
    return attempt


def _nothing_to_do(plan: Plan, finished: RunResult) -> RunResult:
    """Return the finished run; an incremental run also adds an attempt with nothing new to the history.

    The staging folder is emptied once more: an attempt that lost its lease may have staged rows after the run ended.
    """
    remove_orphans(plan.output, finished.summary["attempt"])
    if plan.changes is None:
        return finished
    attempt = _attempt(plan)
    attempt.outcome, attempt.finished_at = history.NOTHING_NEW, time.time()
    write_attempt(plan.output, attempt)
    return replace(finished, attempt=attempt)


def _check_size(plan: Plan) -> None:
    from maskmill.pipeline.cluster.pools import check_fits, local_size, plan_pools

    size = local_size(plan.config)
    if size is not None:
        check_fits(plan_pools(plan.config, *size), plan.config, *size)


def _label(
    plan: Plan, attempt: Attempt, lease: LeaseKeeper, progress: Progress, on_progress: Callable[[Progress], None]
) -> None:
    """Run the graph over the plan's tasks; count what it stages and commits in ``progress`` and ``attempt``."""
    from maskmill.pipeline.cluster import driver, prometheus

    job, pools = _prepare(plan, attempt)
    meter = prometheus.RunMeter(plan.vocabulary.names)
    shard_bytes = {task.shard.shard_id: task.shard.size_bytes for task in plan.tasks}
    progress.started_at = time.monotonic()
    with _cost_measured(plan, attempt, progress):
        for event in driver.run_job(job, pools):
            lease.check()
            if isinstance(event, driver.Staged):
                progress.images += event.images
                progress.failed += event.failed
            else:
                size_bytes = shard_bytes[event.shard_id]
                _count(event, size_bytes, attempt, progress)
                _log_commit(event, plan.config.max_failed)
                meter.committed(event.result.added, size_bytes, event.result.bytes_written)
            meter.waiting(len(plan.tasks) - progress.shards_done, progress.images - attempt.images)
            with observing("the display of the progress"):
                on_progress(progress)


def _prepare(plan: Plan, attempt: Attempt) -> tuple[Job, Pools]:
    """Start or join Ray, try a worker, choose the precision; return the job and the pools it runs in."""
    from maskmill.pipeline.cluster import prepare
    from maskmill.pipeline.cluster.flow import Job
    from maskmill.pipeline.cluster.pools import local_size, plan_pools

    own_ray = local_size(plan.config) is not None  # asked before Ray starts: afterwards there is one to join
    cpus, gpus = prepare.start_ray(plan.config)
    pools = plan_pools(plan.config, cpus, gpus)
    prepare.check_workers(plan.config, own_ray=own_ray)
    job = Job(
        config=plan.config,
        spec=_with_dtype(plan, pools),
        vocabulary=plan.vocabulary,
        output=plan.output,
        tasks=plan.tasks,
        run_id=plan.record.run_id,
        attempt=attempt.attempt,
        fingerprint=plan.record.digest,
    )
    return job, pools


def _with_dtype(plan: Plan, pools: Pools) -> ModelSpec:
    """Return the model's specification; --dtype auto becomes the fastest precision, measured once in a run's life."""
    from maskmill.pipeline.cluster import prepare

    if plan.spec.dtype != "auto":
        return plan.spec
    measured = plan.record.measured_dtype
    if measured is None:
        measured = prepare.measured_dtype(plan.config, plan.spec, pools)
        write_record(plan.output, replace(plan.record, measured_dtype=measured), plan.vocabulary)
    log.info("precision: %s", measured)
    return replace(plan.spec, dtype=measured["dtype"])


@contextmanager
def _cost_measured(plan: Plan, attempt: Attempt, progress: Progress) -> Iterator[None]:
    """Measure what the cluster offers during the body, and set the attempt's cost at its end, after an error too."""
    from maskmill.pipeline.cluster.usage import ClusterUsage

    cluster = ClusterUsage()
    try:
        with cluster:
            yield
    finally:
        attempt.cost = cost_of(
            gpu_seconds=cluster.gpu_seconds,
            cpu_seconds=cluster.cpu_seconds,
            bytes_read=progress.bytes_read,
            bytes_written=progress.bytes_written,
            images=attempt.images,
            price_per_gpu_hour=plan.config.price_per_gpu_hour,
        )


def _count(event: Committed, size_bytes: int, attempt: Attempt, progress: Progress) -> None:
    progress.shards_done += 1
    progress.bytes_read += size_bytes
    progress.bytes_written += event.result.bytes_written
    attempt.shards_done += 1
    attempt.images += event.result.added.images
    attempt.failed += event.result.added.failed


def _log_commit(event: Committed, max_failed: float) -> None:
    """Log the shard, as a warning if more than ``max_failed`` of its images failed, and each failed image."""
    shard_id, result = event.shard_id, event.result
    level = logging.WARNING if result.failed > max_failed * result.images else logging.INFO
    extra = {"shard": shard_id}
    log.log(level, "committed %s: %d images, %d failed", shard_id, result.images, result.failed, extra=extra)
    for failure in result.failures:
        log.info(
            "failed in %s: %s", failure["stage"], failure["error_class"], extra={**extra, "image": failure["image_id"]}
        )
