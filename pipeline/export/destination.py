"""Checks and marks the place an export is written to: apart from the run, and without replacing other files."""

from __future__ import annotations

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.output.ownership import claim, is_claimed, some_names
from maskmill.pipeline.results.beside_run import check_beside_run
from maskmill.pipeline.results.reader import Results
from maskmill.pipeline.storage.files import StorageOptions, public_uri
from maskmill.pipeline.storage.writable import check_writable

COMMAND = "export"


def claim_destination(
    results: Results, destination: str, overwrite: bool, storage_options: StorageOptions
) -> frozenset[str]:
    """Check the destination, mark it as an export's, and return the names of the files there that must not be replaced.

    Raises UsageError if it is inside the run's files or images, cannot be written to, or is not empty and ``overwrite``
    is False. With ``overwrite``, files that earlier exports wrote are replaced, and no others.
    """
    check_beside_run(results, destination, what="the export", is_folder=True)
    check_writable(destination, storage_options, what="the export")
    output = Output(destination, storage_options)
    entries = sorted(output.entries())
    if entries and not overwrite:
        raise UsageError(
            f"{public_uri(destination)} is not empty ({some_names(entries)}); choose another place, or give "
            "--overwrite to write beside what lies there and replace what earlier exports wrote"
        )
    protected = frozenset() if not entries or is_claimed(output, COMMAND) else frozenset(output.all_names())
    if not protected:
        claim(output, COMMAND)
    return protected
