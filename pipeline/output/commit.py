"""Commit of one shard: the tables that workers staged for it become its final files, and its marker says so."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from maskmill.pipeline.output.folder import (
    ERRORS_FOLDER,
    LABELS_FOLDER,
    RUN_FILE,
    Output,
    errors_name,
    labels_name,
    part_name,
)
from maskmill.pipeline.output.markers import read_marker, remove_marker, write_marker
from maskmill.pipeline.output.schema import ERRORS, LABELS, SCHEMA_VERSION, with_metadata
from maskmill.pipeline.output.statistics import RunSums, sums_of_tables
from maskmill.pipeline.sources import Shard

LOGGED_FAILURES = 20
"""At most so many failed rows of a commit are named in its result."""


class CommitError(RuntimeError):
    """The parts do not hold each row exactly once, or the output holds another run now; nothing was committed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitRequest:
    """All that the commit of a shard needs; plain values, so that it can run on any machine.

    attempt: the call of ``maskmill`` that labelled the shard. parts: names of its staged tables; a batch of images
    makes one part, with a table of labels, a table of errors, or both. rows: how many rows the parts must hold
    together. relabelled: the rows that a retry labelled again, while all other rows stay as they were committed; None
    when the whole shard was labelled.
    """

    shard: Shard
    attempt: str
    rows: int
    parts: Sequence[str]
    run_id: str
    fingerprint: str
    relabelled: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitResult:
    """What a commit made of a shard.

    images, failed: rows of the whole shard. added: sums over the rows labelled now, without those that a retry kept.
    bytes_written: size of the final files. failures: some of the rows that failed now (image_id, stage, error_class),
    for the log.
    """

    images: int
    failed: int
    added: RunSums = field(default_factory=RunSums)
    bytes_written: int = 0
    failures: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of one shard, sorted by row number: the labelled ones (schema LABELS) and the failed ones (ERRORS)."""

    labels: pa.Table
    errors: pa.Table

    def sums(self) -> RunSums:
        return sums_of_tables(self.labels, self.errors)


def commit_shard(output: Output, request: CommitRequest) -> CommitResult:
    """Turn the staged parts of a shard into its final files, in six steps.

    1. Merge the parts, and check that together they hold every row exactly once.
    2. Check that the output still holds the run that the parts belong to.
    3. Remove the old marker, where there is one and the new files will differ from those it was written for.
    4. Write the table of labels, then the table of errors. After a retry these also hold the rows it did not touch.
    5. Write the new marker: from now on the shard is done.
    6. Remove the parts.

    The process may be killed anywhere. A shard without a marker counts as not done and is labelled again, so that no
    reader takes half-written files for a result. Two attempts may commit one shard at once: both write equivalent
    files under the same names, so that either order of the writes leaves a whole result. Raises CommitError where one
    of the two checks fails; then nothing has changed.
    """
    shard_id = request.shard.shard_id
    old_marker = read_marker(output, shard_id)
    if old_marker is not None and old_marker["attempt"] == request.attempt:
        return _result_of_marker(old_marker)
    new_rows = _merged_parts(output, request)
    _check_run(output, request)
    if old_marker is not None and _replaces(old_marker, request):
        remove_marker(output, shard_id)
    rows = new_rows if request.relabelled is None else _with_kept_rows(output, request, new_rows)
    size = _write_tables(output, request, rows)
    sums = rows.sums()
    size += write_marker(output, shard_id, _marker(request, sums, old_marker))
    _remove_parts(output, request)
    return CommitResult(
        images=sums.images,
        failed=sums.failed,
        added=new_rows.sums(),
        bytes_written=size,
        failures=tuple(_some_failures(new_rows.errors)),
    )


def _result_of_marker(marker: dict[str, Any]) -> CommitResult:
    """The result of a commit that was interrupted after its marker was written; its parts may be gone already."""
    sums = RunSums.from_dict(marker["sums"])
    return CommitResult(images=sums.images, failed=sums.failed, added=sums)


def _merged_parts(output: Output, request: CommitRequest) -> _Rows:
    """Read all parts. Raises CommitError unless each of the wanted rows is in exactly one of the two tables."""
    labels = _merged_tables(output, request, LABELS_FOLDER, LABELS)
    errors = _merged_tables(output, request, ERRORS_FOLDER, ERRORS)
    rows = labels["row"].to_pylist() + errors["row"].to_pylist()
    if len(rows) != request.rows or len(set(rows)) != request.rows:
        raise CommitError(f"parts hold {len(rows)} rows ({len(set(rows))} different), expected {request.rows}")
    return _Rows(labels, errors)


def _merged_tables(output: Output, request: CommitRequest, kind: str, schema: pa.Schema) -> pa.Table:
    tables = []
    for part in request.parts:
        try:
            tables.append(output.read_table(part_name(request.attempt, kind, part)))
        except FileNotFoundError:
            continue  # a part has a table of each kind only if it has such rows; a lost one shows in the count of rows
    merged = pa.concat_tables([table.cast(schema) for table in tables]) if tables else schema.empty_table()
    return _first_of_each_row(merged)


def _first_of_each_row(table: pa.Table) -> pa.Table:
    """Sort by row and drop repeats: a batch is computed twice when its worker is lost after staging it.

    The result consists of slices of ``table``: ``take`` would copy, and fail on more than 2 GiB of RLEs.
    """
    rows = table["row"].to_numpy()
    order = np.argsort(rows, kind="stable")
    order = order[np.diff(rows[order], prepend=-1) != 0]
    # Positions that follow one another in the table make one slice.
    starts = np.flatnonzero(np.diff(order, prepend=-2) != 1)
    lengths = np.diff(starts, append=order.size)
    slices = [table.slice(int(order[start]), int(length)) for start, length in zip(starts, lengths, strict=True)]
    return pa.concat_tables(slices) if slices else table


def _check_run(output: Output, request: CommitRequest) -> None:
    """Raise CommitError if another attempt has taken over the output and started a new run in it."""
    run = output.read_json(RUN_FILE)
    if run is not None and run["run_id"] != request.run_id:
        raise CommitError(f"the output holds run {run['run_id']} now; this is a commit of run {request.run_id}")


def _replaces(old_marker: dict[str, Any], request: CommitRequest) -> bool:
    """Whether the new files will differ from the old ones; the same settings on the same data give the same files."""
    old = old_marker["fingerprint"], old_marker["shard"]["version"]
    return request.relabelled is not None or old != (request.fingerprint, request.shard.version)


def _with_kept_rows(output: Output, request: CommitRequest, new: _Rows) -> _Rows:
    """The rows of a retry, and the committed rows that the retry did not label again."""
    shard_id = request.shard.shard_id
    replaced = pa.array(request.relabelled, pa.int64())

    def kept(table: pa.Table) -> pa.Table:
        return table.filter(pc.invert(pc.is_in(table["row"], replaced)))

    labels = kept(output.read_table(labels_name(shard_id)).cast(LABELS))
    errors = ERRORS.empty_table()
    if output.exists(errors_name(shard_id)):
        errors = kept(output.read_table(errors_name(shard_id)).cast(ERRORS))
    return _Rows(
        _first_of_each_row(pa.concat_tables([labels, new.labels])),
        _first_of_each_row(pa.concat_tables([errors, new.errors])),
    )


def _write_tables(output: Output, request: CommitRequest, rows: _Rows) -> int:
    """Write the final tables and return their size in bytes. Without a failed row there is no table of errors."""
    shard_id = request.shard.shard_id
    metadata = {"run_id": request.run_id, "fingerprint": request.fingerprint, "shard": shard_id}
    size = output.write_table(labels_name(shard_id), rows.labels.cast(with_metadata(LABELS, **metadata)))
    if rows.errors.num_rows:
        return size + output.write_table(errors_name(shard_id), rows.errors.cast(with_metadata(ERRORS, **metadata)))
    output.remove(errors_name(shard_id))
    return size


def _marker(request: CommitRequest, sums: RunSums, old_marker: dict[str, Any] | None) -> dict[str, Any]:
    version = request.shard.version
    if request.relabelled is not None and old_marker is not None:
        # The rows that a retry keeps were read from the version in the old marker, so that version stays.
        version = old_marker["shard"]["version"]
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": request.run_id,
        "attempt": request.attempt,
        "fingerprint": request.fingerprint,
        "committed_at": time.time(),
        "shard": {
            "id": request.shard.shard_id,
            "uri": request.shard.uri,
            "version": version,
            "bytes": request.shard.size_bytes,
        },
        "sums": sums.to_dict(),
    }


def _remove_parts(output: Output, request: CommitRequest) -> None:
    for part in request.parts:
        for kind in (LABELS_FOLDER, ERRORS_FOLDER):
            output.remove(part_name(request.attempt, kind, part))


def _some_failures(errors: pa.Table) -> list[dict[str, str]]:
    return errors.select(["image_id", "stage", "error_class"]).slice(0, LOGGED_FAILURES).to_pylist()
