"""Commit of one shard: staged parts are merged in input order into the final files, then the marker is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from maskmill.pipeline.output.folder import Output, errors_name, labels_name, marker_name, part_name
from maskmill.pipeline.output.schema import ERRORS, LABELS, SCHEMA_VERSION, with_metadata
from maskmill.pipeline.output.statistics import RunSums, sums_of_tables
from maskmill.pipeline.sources import Shard


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitRequest:
    """All that the commit of a shard needs; plain values, so it can run anywhere.

    rows: how many rows the parts must hold. relabelled: row numbers replaced by a retry, whose other rows are kept
    from the committed files; None when the whole shard was labelled.
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
    bytes_written: final files. failures: some of the rows that failed now (image_id, stage, error_class), for the log.
    """

    images: int
    failed: int
    added: RunSums = field(default_factory=RunSums)
    bytes_written: int = 0
    failures: tuple[dict[str, str], ...] = ()


FAILURES_TOLD = 20


class CommitError(RuntimeError):
    """The parts do not hold each row exactly once, or the output is another run's by now; nothing was committed."""


def commit_shard(output: Output, request: CommitRequest) -> CommitResult:
    """Merge, write labels, errors, marker in that order, and remove the parts.

    Two attempts may run this for one shard at once: both write the same
    names with equivalent content, so either order leaves a whole result.
    """
    shard_id = request.shard.shard_id
    done = output.read_json(marker_name(shard_id))
    if done is not None and done["attempt"] == request.attempt:
        # This very commit was interrupted after its last step, and its parts may be gone.
        sums = RunSums.from_dict(done["sums"])
        return CommitResult(images=sums.images, failed=sums.failed, added=sums)
    labels = _merge(output, request, "labels", LABELS)
    errors = _merge(output, request, "errors", ERRORS)
    _check_rows(labels, errors, request.rows)
    _check_run(output, request)
    added, failures = sums_of_tables(labels, errors), _some_failures(errors)
    version = request.shard.version
    if done is not None and _replaces(done, request):
        # Without its marker the shard counts as not done, should this end between the files below.
        output.remove(marker_name(shard_id))
    if request.relabelled is not None:
        labels, errors = _with_kept_rows(output, request, labels, errors)
        # The rows kept are of the data that the marker names.
        version = version if done is None else done["shard"]["version"]
    metadata = {"run_id": request.run_id, "fingerprint": request.fingerprint, "shard": shard_id}
    size = output.write_table(labels_name(shard_id), labels.cast(with_metadata(LABELS, **metadata)))
    if errors.num_rows:
        size += output.write_table(errors_name(shard_id), errors.cast(with_metadata(ERRORS, **metadata)))
    else:
        output.remove(errors_name(shard_id))
    sums = sums_of_tables(labels, errors)
    marker = {
        "schema_version": SCHEMA_VERSION,
        "run_id": request.run_id,
        "attempt": request.attempt,
        "fingerprint": request.fingerprint,
        "committed_at": time.time(),
        "shard": {
            "id": shard_id,
            "uri": request.shard.uri,
            "version": version,
            "bytes": request.shard.size_bytes,
        },
        "sums": sums.to_dict(),
    }
    size += output.write_json(marker_name(shard_id), marker)
    for part in request.parts:
        for kind in ("labels", "errors"):
            output.remove(part_name(request.attempt, kind, part))
    return CommitResult(
        images=sums.images, failed=sums.failed, added=added, bytes_written=size, failures=tuple(failures)
    )


def _some_failures(errors: pa.Table) -> list[dict[str, str]]:
    return errors.select(["image_id", "stage", "error_class"]).slice(0, FAILURES_TOLD).to_pylist()


def _merge(output: Output, request: CommitRequest, kind: str, schema: pa.Schema) -> pa.Table:
    tables = []
    for part in request.parts:
        try:
            tables.append(output.read_table(part_name(request.attempt, kind, part)))
        except FileNotFoundError:
            continue  # a part has a file of each kind only where there are such rows; _check_rows sees any loss
    merged = pa.concat_tables([table.cast(schema) for table in tables]) if tables else schema.empty_table()
    return _first_of_each_row(merged)


def _first_of_each_row(table: pa.Table) -> pa.Table:
    """Sort by row and drop repeats, which a batch computed twice after a lost worker leaves.

    The result consists of slices: ``take`` would copy, and fail on more than 2 GiB of RLEs.
    """
    rows = table["row"].to_numpy()
    order = np.argsort(rows, kind="stable")
    order = order[np.diff(rows[order], prepend=-1) != 0]
    starts = np.flatnonzero(np.diff(order, prepend=-2) != 1)
    lengths = np.diff(starts, append=order.size)
    runs = [table.slice(int(order[start]), int(length)) for start, length in zip(starts, lengths, strict=True)]
    return pa.concat_tables(runs) if runs else table


def _check_rows(labels: pa.Table, errors: pa.Table, expected: int) -> None:
    rows = labels["row"].to_pylist() + errors["row"].to_pylist()
    if len(rows) != expected or len(set(rows)) != expected:
        raise CommitError(f"parts hold {len(rows)} rows ({len(set(rows))} different), expected {expected}")


def _replaces(done: dict[str, Any], request: CommitRequest) -> bool:
    """Whether the files would differ from those that the marker vouches for, and not just be written once more."""
    same = (done["fingerprint"], done["shard"]["version"]) == (request.fingerprint, request.shard.version)
    return request.relabelled is not None or not same


def _check_run(output: Output, request: CommitRequest) -> None:
    """An attempt whose output was taken over and started anew must not mix its labels into the new run."""
    run = output.read_json("run.json")
    if run is not None and run["run_id"] != request.run_id:
        raise CommitError(f"the output holds run {run['run_id']} now; this is a commit of run {request.run_id}")


def _with_kept_rows(
    output: Output, request: CommitRequest, labels: pa.Table, errors: pa.Table
) -> tuple[pa.Table, pa.Table]:
    shard_id = request.shard.shard_id
    replaced = pa.array(request.relabelled, pa.int64())

    def kept(table: pa.Table) -> pa.Table:
        return table.filter(pc.invert(pc.is_in(table["row"], replaced)))

    old_labels = kept(output.read_table(labels_name(shard_id)).cast(LABELS))
    old_errors = ERRORS.empty_table()
    if output.exists(errors_name(shard_id)):
        old_errors = kept(output.read_table(errors_name(shard_id)).cast(ERRORS))
    return (
        _first_of_each_row(pa.concat_tables([old_labels, labels])),
        _first_of_each_row(pa.concat_tables([old_errors, errors])),
    )
