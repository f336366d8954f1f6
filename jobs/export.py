"""``maskmill export``: the labels in the formats that other tools read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from jobs.arguments import RunOutput, StorageOption


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
        int | None, typer.Option(min=1, help="Split coco, panoptic, coco-stuff and hf into files of so many images.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Write although DEST is not empty; nothing is removed.")] = False,
    storage_option: StorageOption = None,
) -> None:
    """Export the labels of all finished shards; any number of images passes through little memory."""
    from pipeline.export.run import ExportSettings, export_run
    from pipeline.storage import parse_storage_options

    started = time.monotonic()
    settings = ExportSettings(
        file_format=file_format,
        images=images,
        images_per_file=images_per_file,
        overwrite=overwrite,
        storage_options=parse_storage_options(storage_option or []),
    )
    with _progress_line() as on_shard:
        count = export_run(output, destination, settings, on_shard)
    elapsed_s = time.monotonic() - started
    typer.echo(
        f"{count:,} images in {destination} ({file_format}, {elapsed_s:.1f} s, {count / elapsed_s:,.0f} images/s)"
    )


@contextmanager
def _progress_line() -> Iterator[Callable[[int, int], None]]:
    """A live line on a terminal's stderr, nothing elsewhere."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, shards: None
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield lambda done, shards: live.update(Text(f"shard {done:,} of {shards:,}"))
