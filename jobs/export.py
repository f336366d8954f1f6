"""``maskmill export``: writes the labels in the formats that other tools read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from maskmill.jobs.arguments import RunOutput, StorageOption
from maskmill.pipeline.uris import public_uri

EXIT_LEFT_OUT = 3


def export(
    output: RunOutput,
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="An empty folder, or any writable fsspec URI.", show_default=False)
    ],
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="coco, panoptic, png (label maps), coco-stuff (results), fiftyone, yolo or hf (Hugging Face).",
        ),
    ],
    images: Annotated[
        bool | None,
        typer.Option(help="Export the images too; by default for fiftyone, yolo and hf.", show_default=False),
    ] = None,
    images_per_file: Annotated[
        int | None, typer.Option(min=1, help="Split coco, panoptic, coco-stuff and hf into files of this many images.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Write although DEST is not empty; nothing is removed.")] = False,
    storage_option: StorageOption = None,
) -> None:
    """Export the labels of all finished shards. Exit code 3: some images could not be read and were left out."""
    from maskmill.pipeline.export.export import ExportSettings, export_run
    from maskmill.pipeline.export.stream import ExportError
    from maskmill.pipeline.storage.files import parse_storage_options

    started = time.monotonic()
    settings = ExportSettings(
        file_format=file_format,
        images=images,
        images_per_file=images_per_file,
        overwrite=overwrite,
        storage_options=parse_storage_options(storage_option or []),
    )
    try:
        with _progress_line() as on_shard:
            result = export_run(output, destination, settings, on_shard)
    except ExportError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    elapsed_s = time.monotonic() - started
    typer.echo(
        f"{result.images:,} images in {public_uri(destination)} ({file_format}, {elapsed_s:.1f} s, "
        f"{result.images / elapsed_s:,.0f} images/s)"
    )
    if result.renamed:
        typer.echo(
            f"{result.renamed:,} of them have a name that differs from their id's, because an earlier image has that "
            "name; image_id, uri, shard and row tell them apart"
        )
    if result.left_out:
        typer.echo(
            f"{result.left_out:,} images were left out, listed in {public_uri(destination).rstrip('/')}/left_out.csv:"
        )
        for uri, reason in result.examples:
            typer.echo(f"  {uri}: {reason}")
        raise typer.Exit(EXIT_LEFT_OUT)


@contextmanager
def _progress_line() -> Iterator[Callable[[int, int], None]]:
    """Show progress as a live line on a terminal's stderr, and nothing elsewhere."""
    from rich.console import Console

    from maskmill.jobs.live_line import live_line

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, shards: None
        return
    with live_line(console) as show_text:
        yield lambda done, shards: show_text(f"shard {done:,} of {shards:,}")
