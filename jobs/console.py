"""Shows a labelling run to people and log collectors: log lines, a progress line, and the table at the end."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from maskmill.jobs.live_line import live_line
from maskmill.model.licences import licence_notices
from maskmill.pipeline.results.durations import duration_text
from maskmill.pipeline.run.execute import Progress
from maskmill.pipeline.run.incremental import Changes
from maskmill.pipeline.run.plan import Plan
from maskmill.pipeline.run.summary import RunResult
from maskmill.pipeline.sources.kinds import skipped_text
from maskmill.pipeline.storage.files import public_uri
from maskmill.pipeline.uris import public_text

PLAIN_INTERVAL_S = 10.0
"""How often a progress line is printed where there is no terminal."""
CLASSES_SHOWN = 30
VANISHED_SHOWN = 5

log = logging.getLogger("maskmill")


class JsonFormatter(logging.Formatter):
    """Formats a log record as one JSON object: time, level, logger, run, message; attempt, shard, image if known."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run = run

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "run": self.run,
            "message": public_text(record.getMessage()),
        }
        entry |= {key: getattr(record, key) for key in ("attempt", "shard", "image") if hasattr(record, key)}
        if record.exc_info:
            entry["exception"] = public_text(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Formats a log record as text, without the secrets of addresses."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by the traceback if there is one."""
        return public_text(super().format(record))


def set_up_logging(log_format: str, run: str) -> None:
    """Send log lines to stderr; those of libraries from warnings up only. run: the run's id, for every JSON line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(run) if log_format == "json" else TextFormatter("%(asctime)s %(levelname)s %(message)s")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("maskmill").setLevel(logging.INFO if log_format == "json" else logging.WARNING)


def plan_lines(plan: Plan) -> list[str]:
    """Return two lines on what the run will do, and warnings: on files of the input that are not labelled, and on what
    licences of the weights forbid.
    """
    todo, shards, naming = len(plan.tasks), len(plan.shards), plan.spec.naming
    work = f"{shards} shards" if todo == shards else f"{todo} of {shards} shards to do"
    if plan.changes is not None:
        work = changes_text(plan.changes)
    return [
        f"{public_uri(plan.config.input)} -> {public_uri(plan.config.output)}: {work}",
        f"{plan.config.preset}: {len(plan.vocabulary)} classes, region {naming.region}, fusion {naming.fusion}",
        *_skipped_lines(plan),
        *(f"warning: {notice}" for notice in licence_notices(plan.spec)),
    ]


def _skipped_lines(plan: Plan) -> list[str]:
    skipped = plan.record.skipped
    if not skipped:
        return []
    count = sum(skipped.values())
    return [f"warning: {count:,} files of the input are not taken, being no images by name: {skipped_text(skipped)}"]


def changes_text(changes: Changes) -> str:
    """Return what an incremental run found: "3 new, 1 changed, 2 vanished (a, b; their labels stay)"."""
    parts = [f"{len(changes.new)} new", f"{len(changes.changed)} changed"] if changes.to_label else ["nothing new"]
    if changes.superseded:
        parts.append(f"{len(changes.superseded)} cut anew")
    if changes.vanished:
        names = ", ".join(changes.vanished[:VANISHED_SHOWN])
        more = ", ..." if len(changes.vanished) > VANISHED_SHOWN else ""
        parts.append(f"{len(changes.vanished)} vanished ({names}{more}; their labels stay)")
    return ", ".join(parts)


def progress_text(progress: Progress) -> str:
    """Return one line: images, rate, shards, time to go, failures."""
    eta = "?" if progress.eta_s is None else duration_text(progress.eta_s)
    return (
        f"{progress.images:,} images  {progress.images_per_s:.1f} images/s  "
        f"shards {progress.shards_done}/{progress.shards_pending}  ETA {eta}  failed {progress.failed:,}"
    )


@contextmanager
def progress_display(log_format: str) -> Iterator[Callable[[Progress], None]]:
    """Show progress as a live line on a terminal, else as lines, or as log lines if ``log_format`` is json."""
    console = Console(stderr=True)
    if console.is_terminal and log_format == "text":
        with live_line(console) as show_text:
            show_text("starting Ray and loading the model ...")
            yield lambda progress: show_text(progress_text(progress))
        return
    last_at = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last_at
        if time.monotonic() - last_at < PLAIN_INTERVAL_S:
            return
        last_at = time.monotonic()
        if log_format == "json":
            log.info(progress_text(progress))
        else:
            console.print(Text(progress_text(progress)), soft_wrap=True)

    yield show


def show_result(plan: Plan, result: RunResult) -> None:
    """Print the table of the most frequent classes, the totals, and where the output lies, to stdout."""
    console = Console()
    console.print(class_table(result))
    summary = result.summary
    console.print(
        Text(
            f"{summary['labelled']:,} images labelled, {summary['failed']:,} failed, "
            f"{summary['coverage']:.1%} of pixels named; output: {public_uri(plan.config.output)}"
        ),
        soft_wrap=True,
    )
    for kind, count in sorted(summary["errors"].items(), key=lambda item: -item[1]):
        console.print(Text(f"  {count:,} x {kind}"))
    if summary.get("cost"):
        console.print(Text(cost_text(summary["cost"])), soft_wrap=True)


def cost_text(cost: Mapping[str, Any]) -> str:
    """Return one line on what the attempt took, and its price if --price-per-gpu-hour was given."""
    gigabytes = f"read {cost['bytes_read'] / 1e9:,.2f} GB, wrote {cost['bytes_written'] / 1e9:,.2f} GB"
    text = f"this attempt: {cost['gpu_hours']:,.2f} GPU-hours, {cost['cpu_hours']:,.2f} CPU-hours, {gigabytes}"
    if cost["price"] is not None:
        text += f"; price {cost['price']:,.2f}"
    if cost["price_per_1000_images"] is not None:
        text += f", {cost['price_per_1000_images']:,.4f} per 1,000 images"
    return text


def class_table(result: RunResult) -> Table:
    """Return the statistics of classes as a table, the most frequent classes first."""
    rows = sorted(result.class_stats.to_pylist(), key=lambda row: (-row["pixels"], row["class_id"]))
    hit = [row for row in rows if row["images"]]
    table = Table(title=f"{len(hit)} of {len(rows)} classes found")
    for name, justify in (("class", "left"), ("seen", "left"), ("images", "right"), ("segments", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name in ("pixels", "score", "agreement"):
        table.add_column(name, justify="right")
    for row in hit[:CLASSES_SHOWN]:
        seen = {True: "yes", False: "no", None: ""}[row["seen"]]
        table.add_row(
            Text(row["class_name"]),
            seen,
            f"{row['images']:,}",
            f"{row['segments']:,}",
            f"{row['pixel_share']:.2%}",
            f"{row['score_mean']:.2f}",
            f"{row['agreement_mean']:.0%}",
        )
    if len(hit) > CLASSES_SHOWN:
        table.caption = f"and {len(hit) - CLASSES_SHOWN} more, see class_stats.parquet"
    return table
