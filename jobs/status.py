"""``maskmill status``: shows how far a run is, from its markers; starts no Ray."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from maskmill.jobs.arguments import RunOutput, StorageOption

if TYPE_CHECKING:
    from maskmill.pipeline.results.status import Status

MOST_ERRORS = 20


def status(
    output: RunOutput,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines for people.")] = False,
    storage_option: StorageOption = None,
) -> None:
    """Show how far a run is: shards, images, errors by stage and class, rate, time to go."""
    from maskmill.pipeline.results.status import read_status
    from maskmill.pipeline.storage.files import parse_storage_options

    found = read_status(output, parse_storage_options(storage_option or []))
    if as_json:
        typer.echo(json.dumps({**asdict(found), "shards_pending": found.shards_pending}))
        return
    for line in status_lines(found):
        typer.echo(line)


def status_lines(found: Status) -> list[str]:
    """Return the status as lines of text, with one fact on each."""
    from maskmill.pipeline.results.durations import duration_text

    share = f" ({found.shards_done / found.shards:.0%})" if found.shards else ""
    lines = [
        f"run      {found.run_id}",
        f"shards   {found.shards_done:,} of {found.shards:,} done{share}, {found.shards_pending:,} pending",
        f"images   {found.images:,}: {found.labelled:,} labelled, {found.failed:,} failed",
    ]
    if found.skipped_files:
        from maskmill.pipeline.sources.kinds import skipped_text

        count = sum(found.skipped_files.values())
        lines.append(f"skipped  {count:,} files that are no images by name: {skipped_text(found.skipped_files)}")
    if found.last_commit_age_s is not None:
        lines.append(f"commit   {duration_text(found.last_commit_age_s)} ago")
    if found.images_per_s is not None and found.shards_pending:
        lines.append(f"rate     {found.images_per_s:,.1f} images/s over the latest commits")
    if found.eta_s is not None and found.shards_pending:
        lines.append(f"to go    {duration_text(found.eta_s)} at that rate")
    most = sorted(found.errors.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"error    {count:,} x {kind}" for kind, count in most[:MOST_ERRORS]]
    if len(most) > MOST_ERRORS:
        lines.append(f"         and {len(most) - MOST_ERRORS} other kinds")
    return lines
