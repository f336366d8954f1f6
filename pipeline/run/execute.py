"""One labelling run: take the lease, label what is planned, add up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
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
    from maskmill.pipeline.cluster.driver import Committed

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """How far this attempt is; images of shards done before do not count."""

    shards_pending: int
    shards_done: int = 0
    images: int = 0
    failed: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    started_at: float = field(default_factory=time.monotonic)

    @property
    def images_per_s(self) -> float:
        """Mean rate since the start of the attempt."""
        elapsed_s = time.monotonic() - self.started_at
        return self.images / elapsed_s if elapsed_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds to go, from the share of shards done; None before the first one is."""
        if not self.shards_done:
            return None
        elapsed_s = time.monotonic() - self.started_at
        return elapsed_s / self.shards_done * (self.shards_pending - self.shards_done)


def run_plan(plan: Plan, on_progress: Callable[[Progress], None]) -> RunResult:
    """Label what the plan says and finish the run; with nothing to do and a summary in place, only read it.

    Raises UsageError where a local Ray would be too small, LeaseHeldError where another attempt is writing to the
    output, WorkersBrokenError where no worker can run anything, and what ``driver.run_job`` raises.
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
        # Every shard is committed: whatever lies in staging, of this attempt or a killed one, nobody needs.
        remove_orphans(plan.output, attempt.attempt)
        result = finish_run(plan, attempt)
        too_many = result.failed_share > plan.config.max_failed
        attempt.outcome = history.TOO_MANY_FAILED if too_many else history.COMPLETE
        if plan.nothing_new:
            attempt.outcome = history.NOTHING_NEW
        log.info("attempt ends: %s, %d images", attempt.outcome, attempt.images, extra={"attempt": attempt.attempt})
        return result


def _is_of_last_attempt(plan: Plan, finished: RunResult) -> bool:
    """Whether nothing was committed since the summary was made, as a retry that was killed in between would have."""
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
    """The finished run as it stands; of an incremental run the history says that it looked.

    An attempt that others took over from may have staged rows after the last one had tidied up.
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
    from maskmill.pipeline.cluster import driver, flow, prometheus, usage
    from maskmill.pipeline.cluster.pools import local_size, plan_pools

    own_ray = local_size(plan.config) is not None
    size = flow.start_ray(plan.config)
    pools = plan_pools(plan.config, *size)
    flow.check_workers(plan.config, own_ray=own_ray)
    spec, record = plan.spec, plan.record
    if spec.dtype == "auto":
        if record.measured_dtype is None:
            record = replace(record, measured_dtype=flow.measured_dtype(plan.config, spec, pools))
            write_record(plan.output, record, plan.vocabulary)
        assert record.measured_dtype is not None
        spec = replace(spec, dtype=record.measured_dtype["dtype"])
        log.info("precision: %s", record.measured_dtype)
    job = flow.Job(
        config=plan.config,
        spec=spec,
        vocabulary=plan.vocabulary,
        output=plan.output,
        tasks=plan.tasks,
        run_id=plan.record.run_id,
        attempt=attempt.attempt,
        fingerprint=plan.record.digest,
    )
    sizes = {task.shard.shard_id: task.shard.size_bytes for task in plan.tasks}
    meter = prometheus.RunMeter(plan.vocabulary.names)
    progress.started_at = time.monotonic()
    cluster = usage.ClusterUsage()
    try:
        with cluster:
            for event in driver.run_job(job, pools):
                lease.check()
                if isinstance(event, driver.Staged):
                    progress.images += event.images
                    progress.failed += event.failed
                else:
                    progress.bytes_read += sizes[event.shard_id]
                    _count(event, plan.config.max_failed, attempt, progress)
                    meter.committed(event.result.added, sizes[event.shard_id], event.result.bytes_written)
                meter.waiting(len(plan.tasks) - progress.shards_done, progress.images - attempt.images)
                with observing("the display of the progress"):
                    on_progress(progress)
    finally:
        attempt.cost = cost_of(
            gpu_seconds=cluster.gpu_seconds,
            cpu_seconds=cluster.cpu_seconds,
            bytes_read=progress.bytes_read,
            bytes_written=progress.bytes_written,
            images=attempt.images,
            price_per_gpu_hour=plan.config.price_per_gpu_hour,
        )


def _count(event: Committed, max_failed: float, attempt: Attempt, progress: Progress) -> None:
    shard_id, result = event.shard_id, event.result
    progress.shards_done += 1
    progress.bytes_written += result.bytes_written
    attempt.shards_done += 1
    attempt.images += result.added.images
    attempt.failed += result.added.failed
    note = log.warning if result.failed > max_failed * result.images else log.info
    note("committed %s: %d images, %d failed", shard_id, result.images, result.failed, extra={"shard": shard_id})
    for failure in result.failures:
        log.info(
            "failed in %s: %s",
            failure["stage"],
            failure["error_class"],
            extra={"shard": shard_id, "image": failure["image_id"]},
        )
