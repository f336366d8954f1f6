"""``maskmill history``: lists the attempts made on an output; starts no Ray."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from maskmill.jobs.arguments import RunOutput, StorageOption

if TYPE_CHECKING:
    from maskmill.pipeline.run.history import Attempt

COLUMNS = ("started (UTC)", "took", "outcome", "shards", "images", "failed", "vanished", "GPU h", "price")


def history(
    output: RunOutput,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per attempt and line.")] = False,
    last: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="Only the N latest attempts.")] = None,
    storage_option: StorageOption = None,
) -> None:
    """List the attempts on OUTPUT, the oldest first: when they ran, how they ended, what they labelled and cost."""
    from maskmill.pipeline.run.history import read_history
    from maskmill.pipeline.storage.files import parse_storage_options

    attempts = read_history(output, parse_storage_options(storage_option or []))
    for line in map(_json_line, attempts[-(last or 0) :]) if as_json else table_lines(attempts[-(last or 0) :]):
        typer.echo(line)


def _json_line(attempt: Attempt) -> str:
    return json.dumps({**attempt.to_dict(), "seconds": attempt.seconds}, ensure_ascii=False)


def table_lines(attempts: list[Attempt]) -> list[str]:
    """Return a heading and a line for each attempt, in aligned columns."""
    rows = [COLUMNS, *map(_cells, attempts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cells(attempt: Attempt) -> tuple[str, ...]:
    from maskmill.pipeline.results.durations import duration_text

    shards = f"{attempt.shards_done} of {attempt.shards_new + attempt.shards_changed}"
    price = None if attempt.cost is None else attempt.cost.price
    return (
        time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(attempt.started_at)),
        "-" if attempt.seconds is None else duration_text(attempt.seconds),
        attempt.outcome + (f" ({attempt.error})" if attempt.error else ""),
        shards + (f" ({attempt.shards_changed} changed)" if attempt.shards_changed else ""),
        f"{attempt.images:,}",
        f"{attempt.failed:,}",
        f"{len(attempt.vanished):,}",
        "-" if attempt.cost is None else f"{attempt.cost.gpu_hours:.3f}",
        "-" if price is None else f"{price:.2f}",
    )
