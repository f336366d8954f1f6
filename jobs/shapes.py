"""``maskmill shapes``: draws the data set that the bundled model was trained on."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from maskmill.pipeline.shapes.write import ShapesSettings, write_shapes
from maskmill.pipeline.storage.files import parse_storage_options
from maskmill.pipeline.uris import public_uri


def shapes(
    destination: Annotated[str, typer.Argument(metavar="DEST", help="A folder or any writable fsspec URI.")],
    images: Annotated[int, typer.Option(help="How many images to draw.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same images in every format.")] = 0,
    file_format: Annotated[
        str, typer.Option("--format", metavar="wds|parquet|folder", help="WebDataset tars, Parquet files or a folder.")
    ] = "wds",
    shard_size: Annotated[int, typer.Option(help="Images per tar or Parquet file.")] = 1000,
    classes_allowed: Annotated[
        str, typer.Option(metavar="all|seen", help="seen: draw nothing that segmentation training must not see.")
    ] = "all",
    storage_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Option of the file system; may be repeated.")
    ] = None,
) -> None:
    """Draw images of coloured shapes on textured ground, with exact label maps and a classes.json."""
    settings = ShapesSettings(
        images=images, seed=seed, file_format=file_format, shard_size=shard_size, allowed=classes_allowed
    )
    started = time.monotonic()
    write_shapes(destination, settings, parse_storage_options(storage_option or []))
    elapsed_s = time.monotonic() - started
    typer.echo(
        f"{images} images in {public_uri(destination)} "
        f"({file_format}, {elapsed_s:.1f} s, {images / elapsed_s:.0f} images/s)"
    )
