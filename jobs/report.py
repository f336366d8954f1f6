"""``maskmill report``: writes what a run found as one HTML file that needs no network."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from maskmill.jobs.arguments import RunOutput, StorageOption
from maskmill.pipeline.uris import public_uri


def report(
    output: RunOutput,
    to: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where index.html goes; by default OUTPUT/report.")
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Price of one hour of all machines together, not of one GPU: shows the cost of the last attempt.",
        ),
    ] = None,
    storage_option: StorageOption = None,
) -> None:
    """Write an HTML report: figures, table of classes, plots, gallery, review queue, evaluation."""
    from maskmill.pipeline.report.build import ReportSettings, write_report
    from maskmill.pipeline.storage.files import parse_storage_options

    started = time.monotonic()
    settings = ReportSettings(
        to=to, price_per_hour=price_per_hour, storage_options=parse_storage_options(storage_option or [])
    )
    place = write_report(output, settings)
    typer.echo(f"{public_uri(place)}  ({time.monotonic() - started:.1f} s)")
