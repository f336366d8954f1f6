"""``maskmill show``: shows one image with its segments, as a picture and as a table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskmill.jobs.arguments import RunOutput, StorageOption

if TYPE_CHECKING:
    from rich.table import Table


def show(
    output: RunOutput,
    image_id: Annotated[
        str,
        typer.Argument(metavar="IMAGE_ID", help="As in the column image_id of the labels.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The PNG to write; default: named after the image, here."),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Shard of the image: faster; needed if several shards have the id.")
    ] = None,
    row: Annotated[
        int | None,
        typer.Option(min=0, help="Row in the shard: needed if the shard has the id several times."),
    ] = None,
    side: Annotated[int, typer.Option(min=16, help="Longest side of the image in the picture, in pixels.")] = 1600,
    storage_option: StorageOption = None,
) -> None:
    """Draw the segments of one image over it and list them."""
    from rich.console import Console
    from rich.text import Text

    from maskmill.pipeline.errors import BadImageError
    from maskmill.pipeline.pictures.overlay import png_bytes
    from maskmill.pipeline.results.beside_run import check_beside_run
    from maskmill.pipeline.results.reader import open_results
    from maskmill.pipeline.results.show import find_row, show_image
    from maskmill.pipeline.storage.files import open_filesystem, parse_storage_options, write_atomic
    from maskmill.pipeline.storage.writable import check_file_writable

    results = open_results(output, parse_storage_options(storage_option or []))
    place = out or Path(f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', image_id).strip('.')[-80:] or 'image'}.overlay.png")
    check_beside_run(results, str(place), what="the picture (--out)")
    check_file_writable(str(place), what="the picture")
    labels = find_row(results, image_id, shard, row)
    try:
        picture = show_image(results, labels, side)
    except BadImageError as error:
        typer.echo(f"error: the image can no longer be decoded: {error}", err=True)
        raise typer.Exit(1) from error
    write_atomic(*open_filesystem(str(place)), png_bytes(picture))
    console = Console()
    console.print(segment_table(labels))
    console.print(Text(str(place)), soft_wrap=True)


def segment_table(row: dict[str, Any]) -> Table:
    """Return the segments of a labels row as a table, the largest first."""
    from rich.table import Table
    from rich.text import Text

    title = f"{row['image_id']}, {row['width']} x {row['height']}, {row['coverage']:.1%} named"
    table = Table(title=Text(title))
    table.add_column("class")
    for name in ("score", "area", "stability", "margin", "agrees"):
        table.add_column(name, justify="right")
    pixels = row["width"] * row["height"]
    for at in sorted(range(len(row["areas"])), key=lambda at: -row["areas"][at]):
        table.add_row(
            Text(row["class_names"][at]),
            f"{row['scores'][at]:.2f}",
            f"{row['areas'][at] / pixels:.1%}",
            f"{row['stability'][at]:.2f}",
            f"{row['margin'][at]:.2f}",
            "yes" if row["agreement"][at] >= 0.5 else "no",
        )
    return table
