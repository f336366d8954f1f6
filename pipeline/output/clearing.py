"""Removes what a run has left: the files of attempts that did not end, or the whole run before another takes its place.

Only files that this program wrote are removed, each by its name.
"""

from __future__ import annotations

import io
import logging
import os
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

from maskmill.pipeline.output.folder import (
    CLASS_STATS_FILE,
    ERRORS_FOLDER,
    INVENTORY_FILE,
    LABELS_FOLDER,
    RUN_FILE,
    STAGING,
    SUMMARY_FILE,
    Output,
)
from maskmill.pipeline.output.markers import MARKERS_FOLDER, finished_shards, remove_markers
from maskmill.pipeline.storage.failures import is_permission
from maskmill.pipeline.storage.files import UNFINISHED_PREFIX, UNFINISHED_SUFFIX

log = logging.getLogger(__name__)

_TABLE_FOLDERS = (LABELS_FOLDER, ERRORS_FOLDER)
_WRITTEN_FOLDERS = (".", *_TABLE_FOLDERS, MARKERS_FOLDER)


def remove_orphans(output: Output, attempt: str) -> None:
    """Remove what ``attempt`` and those before it (attempts sort by their start) staged or left half written.

    The staged files of a later attempt, which has taken over, stay. A file that cannot be removed, since another
    process is still writing to it, stays with a warning: nothing depends on the file.
    """
    staged = [name for name, is_folder in output.entries(STAGING).items() if is_folder and name <= attempt]
    folders = [f"{STAGING}/{each}/{kind}" for each in staged for kind in _TABLE_FOLDERS]
    orphans = [f"{each}/{name}.parquet" for each in folders for name in output.names(each, ".parquet")]
    if output.is_local:  # a store shows a file only when it is whole
        orphans += [f"{each}/{name}" for each in (*_WRITTEN_FOLDERS, *folders) for name in _unfinished(output, each)]
    for name in orphans:
        _try_to_remove(output, name)
    _remove_empty(output, *folders, *(f"{STAGING}/{each}" for each in staged), STAGING)


def clear_run(output: Output) -> None:
    """Remove the shards of the run that lies in the output and what was made from them, file by file.

    A table is removed only if it bears the name of a shard with a marker, or says in its metadata that a run wrote it.
    The history stays, and so does run.json, which the next run replaces: without it nobody could tell that the files
    left by an interrupted call are a run's. Markers go before their tables, so that an interrupted call leaves no
    marker whose tables are gone.
    """
    if not output.exists(RUN_FILE):
        return
    tables = {folder: output.names(folder, ".parquet") for folder in _TABLE_FOLDERS}
    done = set(finished_shards(output))
    output.remove(INVENTORY_FILE)
    remove_markers(output, sorted(done))
    for name in (SUMMARY_FILE, CLASS_STATS_FILE):
        output.remove(name)
    ours = [
        f"{folder}/{name}.parquet"
        for folder, names in tables.items()
        for name in names
        if name in done or _is_table_of(output, name, f"{folder}/{name}.parquet")
    ]
    output.remove_many(ours)
    remove_orphans(output, max(output.entries(STAGING), default=""))
    _remove_empty(output, *_TABLE_FOLDERS, MARKERS_FOLDER)


def _unfinished(output: Output, folder: str) -> list[str]:
    names = output.names(folder, UNFINISHED_SUFFIX)
    return [name + UNFINISHED_SUFFIX for name in names if name.startswith(UNFINISHED_PREFIX)]


def _try_to_remove(output: Output, name: str) -> None:
    try:
        output.remove(name)
    except OSError as error:
        if is_permission(error):
            raise
        log.warning("could not remove %s, which nobody needs any more: %s", name, error)


def _remove_empty(output: Output, *folders: str) -> None:
    """Remove those of these local folders that exist and are empty; a store has no folders to remove."""
    if output.is_local:
        for folder in folders:
            with suppress(OSError):
                os.rmdir(output.path(folder))


def _is_table_of(output: Output, shard_id: str, name: str) -> bool:
    """Whether the table says in its metadata that a run wrote it for this shard."""
    try:
        metadata = pq.read_schema(io.BytesIO(output.read_bytes(name))).metadata or {}
    except (pa.ArrowException, FileNotFoundError):
        return False
    return b"maskmill.run_id" in metadata and metadata.get(b"maskmill.shard") == shard_id.encode()
