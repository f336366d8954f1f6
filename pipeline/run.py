"""One labelling run: take the lease, label what is planned, add up."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.lease import LeaseKeeper, held_lease
from pipeline.output import Output, marker_name
from pipeline.plan import Plan
from pipeline.record import write_record
from pipeline.schema import CLASS_STATS, with_metadata
from pipeline.statistics import RunSums, class_stats_table, merge

log = logging.getLogger(__name__)

SUMMARY = "summary.json"
CLASS_STATS_FILE = "class_stats.parquet"


@dataclass(slots=True)
class Progress:
    """How far this attempt is; images of shards done before do not count."""

    shards_pending: int
    shards_done: int = 0
    images: int = 0
    failed: int = 0
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


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came out. class_stats has the schema CLASS_STATS."""

    summary: dict[str, Any]
    class_stats: pa.Table

    @property
    def failed_share(self) -> float:
        """Failed images of all images of the run."""
        images = self.summary["images"]
        return self.summary["failed"] / images if images else 0.0


def run_plan(plan: Plan, on_progress: Callable[[Progress], None]) -> RunResult:
    """Label what the plan says and finish the run; with nothing to do and a summary in place, only read it.

    Raises UsageError where a local Ray would be too small, LeaseHeldError where another attempt is writing to the
    output, and what ``driver.run_job`` raises.
    """
    if not plan.tasks:
        finished = read_result(plan.output)
        if finished is not None and finished.summary["shards"] == len(plan.shards):
            return finished
    if plan.tasks:
        _check_size(plan)
    attempt = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}"
    with held_lease(plan.output, attempt, plan.config.take_over) as lease:
        if plan.start_anew:
            plan.output.clear()
        write_record(plan.output, plan.record, plan.vocabulary)
        started_at = time.time()
        progress = Progress(len(plan.tasks))
        if plan.tasks:
            _label(plan, attempt, lease, progress, on_progress)
        lease.check()
        # Every shard is committed: whatever lies in staging, of this attempt or a killed one, nobody needs.
        plan.output.remove("_staging")
        return finish_run(plan, {"attempt": attempt, "started_at": started_at, "attempt_images": progress.images})


def _check_size(plan: Plan) -> None:
    from pipeline import flow

    size = flow.local_size(plan.config)
    if size is not None:
        flow.check_fits(flow.plan_pools(plan.config, *size), plan.config, *size)


def _label(
    plan: Plan, attempt: str, lease: LeaseKeeper, progress: Progress, on_progress: Callable[[Progress], None]
) -> None:
    from pipeline import driver, flow  # Ray takes a second to import; planning and status do without it

    size = flow.start_ray(plan.config)
    job = flow.Job(
        config=plan.config,
        spec=plan.spec,
        vocabulary=plan.vocabulary,
        output=plan.output,
        tasks=plan.tasks,
        run_id=plan.record.run_id,
        attempt=attempt,
        fingerprint=plan.record.digest,
    )
    progress.started_at = time.monotonic()
    for event in driver.run_job(job, flow.plan_pools(plan.config, *size)):
        lease.check()
        if isinstance(event, driver.Staged):
            progress.images += event.images
            progress.failed += event.failed
        else:
            progress.shards_done += 1
            note = log.warning if event.failed > plan.config.max_failed * event.images else log.info
            note("committed %s: %d images, %d failed", event.shard_id, event.images, event.failed)
        on_progress(progress)


def finish_run(plan: Plan, attempt: dict[str, Any]) -> RunResult:
    """Add up the markers into class_stats.parquet and summary.json."""
    sums = read_sums(plan.output, [shard.shard_id for shard in plan.shards])
    table = class_stats_table(sums, list(plan.vocabulary.names), [entry.seen for entry in plan.vocabulary])
    schema = with_metadata(CLASS_STATS, run_id=plan.record.run_id, fingerprint=plan.record.digest)
    plan.output.write_table(CLASS_STATS_FILE, table.cast(schema))
    now = time.time()
    summary = {
        "schema_version": plan.record.schema_version,
        "run_id": plan.record.run_id,
        **attempt,
        "finished_at": now,
        "attempt_seconds": now - attempt["started_at"],
        "shards": len(plan.shards),
        "images": sums.images,
        "labelled": sums.labelled,
        "failed": sums.failed,
        "errors": dict(sorted(sums.errors.items())),
        "segments": sums.segments,
        "withheld_segments": sums.withheld_segments,
        "withheld_pixels": sums.withheld_pixels,
        "pixels": sums.pixels,
        "labelled_pixels": sums.labelled_pixels,
        "coverage": sums.labelled_pixels / sums.pixels if sums.pixels else 0.0,
    }
    plan.output.write_json(SUMMARY, summary)
    return RunResult(summary, table)


def read_sums(output: Output, shard_ids: list[str]) -> RunSums:
    """Merge the markers of the given shards."""
    documents = output.read_many(marker_name(shard_id) for shard_id in shard_ids)
    return merge(RunSums.from_dict(json.loads(document)["sums"]) for document in documents)


def read_result(output: Output) -> RunResult | None:
    """The result of a finished run, None if the output has none."""
    summary = output.read_json(SUMMARY)
    if summary is None:
        return None
    return RunResult(summary, output.read_table(CLASS_STATS_FILE))
