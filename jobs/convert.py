"""``maskmill convert``: turns a released checkpoint into safetensors and JSON, which load faster and run no code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.pipeline.errors import UsageError


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="An official checkpoint (.pth or .pkl).")],
    destination: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the converted one.")],
    heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads, if they are not width / 32 (at least 4).")
    ] = None,
) -> None:
    """Convert ZegFormer weights to safetensors and JSON; use the folder as --weights."""
    from maskmill.model.errors import CheckpointError
    from maskmill.model.zegformer.checkpoint import convert as convert_checkpoint
    from maskmill.pipeline.storage.writable import check_writable

    if not source.exists():
        raise UsageError(f"there is no checkpoint at {source}")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UsageError(f"{destination} exists and is not empty; name a new folder")
    check_writable(str(destination), what="the new folder")
    try:
        convert_checkpoint(source, destination, heads=heads)
    except CheckpointError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    for path in sorted(destination.iterdir()):
        typer.echo(f"{path}  {path.stat().st_size / 1e6:,.2f} MB")
