"""Writes summary.json and class_stats.parquet at the end of a run, and reads both back."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from maskmill.pipeline.output.folder import CLASS_STATS_FILE, SUMMARY_FILE, Output
from maskmill.pipeline.output.markers import read_sums, remove_shards
from maskmill.pipeline.output.schema import CLASS_STATS, with_metadata
from maskmill.pipeline.output.statistics import class_stats_table
from maskmill.pipeline.run.history import Attempt
from maskmill.pipeline.run.incremental import write_inventory
from maskmill.pipeline.run.plan import Plan


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a run. class_stats: schema CLASS_STATS. attempt: what this call added, None if it only read."""

    summary: dict[str, Any]
    class_stats: pa.Table
    attempt: Attempt | None = None

    @property
    def failed_share(self) -> float:
        """Return the share of failed images: of this attempt if it is incremental, else of the whole run.

        An incremental attempt is judged alone, because the many images of earlier attempts would hide its failures.
        """
        if self.attempt is not None and self.attempt.incremental:
            images, failed = self.attempt.images, self.attempt.failed
        else:
            images, failed = self.summary["images"], self.summary["failed"]
        return failed / images if images else 0.0


def finish_run(plan: Plan, attempt: Attempt) -> RunResult:
    """Sum the markers into class_stats.parquet and summary.json, remove superseded shards, write the inventory."""
    if plan.changes is not None:
        remove_shards(plan.output, plan.changes.superseded)
    sums = read_sums(plan.output, plan.shard_ids)
    table = class_stats_table(sums, list(plan.vocabulary.names), [entry.seen for entry in plan.vocabulary])
    schema = with_metadata(CLASS_STATS, run_id=plan.record.run_id, fingerprint=plan.record.digest)
    plan.output.write_table(CLASS_STATS_FILE, table.cast(schema))
    now = time.time()
    summary = {
        "schema_version": plan.record.schema_version,
        "run_id": plan.record.run_id,
        "attempt": attempt.attempt,
        "started_at": attempt.started_at,
        "attempt_images": attempt.images,
        "attempt_failed": attempt.failed,
        "finished_at": now,
        "attempt_seconds": now - attempt.started_at,
        "cost": None if attempt.cost is None else asdict(attempt.cost),
        "shards": len(plan.shard_ids),
        "vanished_shards": attempt.vanished,
        "skipped_files": plan.record.skipped,
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
    plan.output.write_json(SUMMARY_FILE, summary)
    if plan.listing:
        # Write what was seen before labelling, so that the next run finds what changed during labelling.
        write_inventory(plan.output, plan.listing, plan.shards, plan.kept)
    return RunResult(summary, table, attempt)


def read_result(output: Output) -> RunResult | None:
    """Return the result of a finished run, None if the output has none."""
    summary = output.read_json(SUMMARY_FILE)
    if summary is None:
        return None
    return RunResult(summary, output.read_table(CLASS_STATS_FILE))
