"""Tells the files of this program from other files in an output folder: others are never replaced or removed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.output.folder import (
    CLASS_STATS_FILE,
    CLASSES_FILE,
    ERRORS_FOLDER,
    HISTORY_FOLDER,
    INVENTORY_FILE,
    LABELS_FOLDER,
    RUN_FILE,
    STAGING,
    SUMMARY_FILE,
    Output,
)
from maskmill.pipeline.output.lease import LEASE
from maskmill.pipeline.output.markers import MARKER_SUFFIX, MARKERS_FOLDER
from maskmill.pipeline.storage.files import UNFINISHED_PREFIX, UNFINISHED_SUFFIX, public_uri

SHOWN = 5
CLAIM = ".maskmill.json"
"""The file that names the command that writes to a folder. Readers of data skip names that begin with a dot."""
FOLDERS = (LABELS_FOLDER, ERRORS_FOLDER, MARKERS_FOLDER, HISTORY_FOLDER, STAGING)
FILES = (RUN_FILE, CLASSES_FILE, SUMMARY_FILE, CLASS_STATS_FILE, INVENTORY_FILE, LEASE)
COUNTED = {LABELS_FOLDER: ".parquet", ERRORS_FOLDER: ".parquet", MARKERS_FOLDER: MARKER_SUFFIX}
"""Folder -> ending: every file there that ends so counts as part of the run."""


def some_names(names: Iterable[str]) -> str:
    """The first few of many names, and how many more there are."""
    listed = list(names)
    rest = f" and {len(listed) - SHOWN:,} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + rest


def check_free(output: Output, *, holds_run: bool, overwrite: bool) -> None:
    """Raise UsageError where a run must not write to ``output``, since files of other origin lie there.

    Files of an attempt that was killed before it wrote run.json do not count as such. overwrite: other files may lie
    there, but none may have a name that the run writes.
    """
    entries = output.entries()
    for name in FOLDERS:
        if entries.get(name) is False:
            raise UsageError(f"{_shown(output)}/{name} is a file, and the run needs a folder of that name there")
    for name in FILES:
        if entries.get(name) is True:
            raise UsageError(f"{_shown(output)}/{name} is a folder, and the run writes a file of that name there")
    if holds_run:
        return
    foreign = _foreign(output, entries)
    if not foreign:
        return
    if not overwrite:
        raise UsageError(
            f"{_shown(output)} is not empty and holds no run: {some_names(foreign)}. Choose an empty place, or add "
            "--overwrite to write beside what lies there, none of which is removed"
        )
    in_the_way = [name for name in foreign if name in FILES] + _counted(output, entries)
    if in_the_way:
        raise UsageError(
            f"{_shown(output)} holds files of other origin under names that a run uses: {some_names(in_the_way)}. They "
            "are neither replaced nor removed, also not with --overwrite; choose another place or move them away"
        )


def _shown(output: Output) -> str:
    return public_uri(output.uri)


def _foreign(output: Output, entries: Mapping[str, bool]) -> list[str]:
    """Entries that no attempt wrote, sorted; folders end in a slash. An attempt writes lease, history, classes, run."""
    begun = _is_history(output, entries)
    ours = {LEASE} if has_keys(output, LEASE, {"attempt", "renewed_at"}) else set()
    ours |= {HISTORY_FOLDER, CLASSES_FILE} if begun else set()
    rest = {name: is_folder for name, is_folder in entries.items() if name not in ours and not _is_unfinished(name)}
    return sorted(f"{name}/" if is_folder else name for name, is_folder in rest.items())


def _is_history(output: Output, entries: Mapping[str, bool]) -> bool:
    """Whether the folder of the history holds records of attempts and nothing else."""
    names = list(output.entries(HISTORY_FOLDER)) if entries.get(HISTORY_FOLDER) else []
    return bool(names) and all(
        _is_unfinished(name) or has_keys(output, f"{HISTORY_FOLDER}/{name}", {"attempt", "run_id"}) for name in names
    )


def has_keys(output: Output, name: str, keys: set[str]) -> bool:
    """Whether the file is a JSON object that has these keys."""
    try:
        plain = output.read_json(name)
    except ValueError:
        return False
    return isinstance(plain, dict) and keys <= set(plain)


def _is_unfinished(name: str) -> bool:
    return name.startswith(UNFINISHED_PREFIX) and name.endswith(UNFINISHED_SUFFIX)


def _counted(output: Output, entries: Mapping[str, bool]) -> list[str]:
    """Files that every reader of a run would take for a part of the run."""
    return [
        f"{folder}/{name}{suffix}"
        for folder, suffix in COUNTED.items()
        if entries.get(folder)
        for name in output.names(folder, suffix)
    ]


def is_claimed(output: Output, command: str) -> bool:
    """Whether ``maskmill command`` has written to this folder before."""
    return has_keys(output, CLAIM, {"written_by"}) and (output.read_json(CLAIM) or {})["written_by"] == command


def claim(output: Output, command: str) -> None:
    """Write CLAIM, before any other file, to say that ``maskmill command`` writes to this folder."""
    output.write_json(CLAIM, {"written_by": command})
