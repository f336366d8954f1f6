"""The parameters that all commands on the output of a run share."""

from __future__ import annotations

from typing import Annotated

import typer

RunOutput = Annotated[str, typer.Argument(metavar="OUTPUT", help="The output of `maskmill label`.", show_default=False)]
StorageOption = Annotated[
    list[str] | None, typer.Option(metavar="K=V", help="Option of the file system; may be repeated.")
]
"""Parse the values with :func:`maskmill.pipeline.storage.files.parse_storage_options`."""
