"""``maskmill demo``: runs other commands on drawn images, one after the other, as a person would type them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from maskmill.pipeline.errors import UsageError

SEED = 2026
SHARD_SIZE = 50
EXPECTED_ACCURACY = 0.90
"""Share of pixels that must be right. With a lower share the demo fails, because something is broken."""
PICTURES = 6


def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where all files go.")] = Path("demo"),
    images: Annotated[int, typer.Option(min=1, metavar="N", help="How many images to draw.")] = 400,
) -> None:
    """Draw images, label them on a local Ray, compare the labels with the truth, and draw a picture of them.

    The same command again continues where it was interrupted.
    """
    from maskmill.pipeline.output.folder import RUN_FILE
    from maskmill.pipeline.storage.writable import check_writable

    drawn, output = folder / "images", folder / "output"
    classes, picture = drawn / "classes.json", folder / "overlay.png"
    check_writable(str(folder), what="the folder")
    if picture.exists() and not (output / RUN_FILE).exists():
        raise UsageError(f"{picture} was not made by this command and is not replaced; choose another folder")
    if not classes.exists():  # it is written last
        _run("shapes", drawn, "--images", images, "--seed", SEED, "--shard-size", SHARD_SIZE)
    _run("label", drawn / "*.tar", output, "--classes", classes)
    _run("evaluate", output, drawn / "*.tar", "--protocol", "shapes")

    from maskmill.pipeline.results.show import overlay_grid

    overlay_grid(str(output), images=PICTURES, columns=3).save(picture)
    accuracy = json.loads((output / "evaluation" / "evaluation.json").read_text())["pixel_accuracy"] / 100
    typer.echo(f"\npixel accuracy  {accuracy:.3f} against the drawn truth (at least {EXPECTED_ACCURACY:.2f} expected)")
    typer.echo(f"labels          {output / 'labels'}: Parquet, one row an image")
    typer.echo(f"picture         {picture}")
    if accuracy < EXPECTED_ACCURACY:
        raise typer.Exit(1)


def _run(*arguments: object) -> None:
    """Run ``maskmill`` in another process, as a person would type it; exit with its code if that is not 0."""
    words = [str(argument) for argument in arguments]
    typer.echo(f"\n$ maskmill {shlex.join(words)}")
    sys.stdout.flush()
    from maskmill.pipeline.cluster.connect import code_folders

    # Use -P, or Python would look for modules in the current folder first, where the user may have any files.
    path = os.pathsep.join(filter(None, [*code_folders(), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", "maskmill.jobs.main", *words]
    finished = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": path})
    if finished.returncode:
        raise typer.Exit(finished.returncode)
