"""Checks where a command that reads a run may write: not over the files of the run, and not among its images."""

from __future__ import annotations

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.output.ownership import FILES, FOLDERS
from maskmill.pipeline.results.reader import Results
from maskmill.pipeline.sources.apart import check_apart
from maskmill.pipeline.storage.addresses import absolute, is_inside, is_local_address
from maskmill.pipeline.storage.files import public_uri


def check_beside_run(results: Results, uri: str, *, what: str, is_folder: bool = False) -> None:
    """Raise UsageError if ``uri`` is, or lies in, a file or folder of the run, or lies among the run's images.

    is_folder: ``uri`` is a folder for the files of the command alone, so it must not contain the run either. what: the
    name of ``uri`` in messages.
    """
    place, output, shown = absolute(uri), absolute(results.output.uri), f"{what} {public_uri(uri)!r}"
    if is_folder and is_inside(output, place):
        raise UsageError(f"{shown} holds the run {public_uri(results.output.uri)!r}; choose another place")
    for name in (*FOLDERS, *FILES):
        if is_inside(place, f"{output}/{name}"):
            raise UsageError(f"{shown} lies in {name} of the run, which other files would damage; choose another place")
    source = results.run["config"]["input"]
    # Runs of earlier versions stored relative addresses, and the folder that these start from is not known.
    if absolute(source) == source or not is_local_address(source):
        check_apart(uri, source, written=what, read="the run's input", any_name=True, may_hold=not is_folder)
