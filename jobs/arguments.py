"""The parameters that every command on a finished or running output has."""

from __future__ import annotations

from typing import Annotated

import typer

RunOutput = Annotated[str, typer.Argument(metavar="OUTPUT", help="The output of `maskmill label`.", show_default=False)]
StorageOption = Annotated[
    list[str] | None, typer.Option(metavar="K=V", help="Option of the file system; may be repeated.")
]
"""To be read with :func:`maskmill.pipeline.storage.files.parse_storage_options`."""
