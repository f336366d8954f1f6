"""The history of an output: each attempt has a file ``runs/<id>.json``, written when it begins and when it ends."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from maskmill.pipeline.cluster.observing import observing
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.interruption import InterruptedRunError
from maskmill.pipeline.output.folder import HISTORY_FOLDER, Output
from maskmill.pipeline.output.lease import read_lease
from maskmill.pipeline.run.costs import Cost
from maskmill.pipeline.storage.files import StorageOptions

_END_IN_HISTORY = "writing down how the attempt ended"
RUNNING, KILLED, INTERRUPTED, FAILED = "running", "killed", "interrupted", "failed"
COMPLETE, TOO_MANY_FAILED, NOTHING_NEW = "complete", "too_many_failed", "nothing_new"


@dataclass(kw_only=True, slots=True)
class Attempt:
    """The contents of an attempt's file. Times are seconds since 1970.

    attempt: its id, which names the file. outcome: running, complete, too_many_failed, nothing_new, interrupted or
    failed; :func:`read_history` changes "running" to "killed" for an attempt that no longer holds the output's lease.
    shards_new, shards_changed: how many shards were to be labelled, and why; shards_done: how many of these were.
    vanished: ids of shards of earlier runs whose input is gone; shards_superseded: how many had their input cut into
    other shards. images, failed: counted in this attempt.
    """

    attempt: str
    run_id: str
    started_at: float
    host: str = field(default_factory=socket.gethostname)
    finished_at: float | None = None
    outcome: str = RUNNING
    error: str | None = None
    incremental: bool = False
    shards_new: int = 0
    shards_changed: int = 0
    shards_done: int = 0
    shards_superseded: int = 0
    vanished: list[str] = field(default_factory=list)
    images: int = 0
    failed: int = 0
    cost: Cost | None = None

    @property
    def seconds(self) -> float | None:
        """Return how long the attempt took, None if it has not ended."""
        return None if self.finished_at is None else self.finished_at - self.started_at

    def to_dict(self) -> dict[str, Any]:
        """Return the attempt as plain JSON values."""
        return asdict(self)


def new_attempt(run_id: str) -> Attempt:
    """Return an attempt that begins now."""
    now = time.time()
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}-{uuid.uuid4().hex[:8]}"
    return Attempt(attempt=name, run_id=run_id, started_at=now)


@contextmanager
def recorded(output: Output, attempt: Attempt) -> Iterator[Attempt]:
    """Write the attempt before and after the body, which fills it in; after an error with the outcome of that error."""
    write_attempt(output, attempt)
    try:
        yield attempt
    except BaseException as error:
        attempt.outcome = INTERRUPTED if isinstance(error, InterruptedRunError) else FAILED
        # Write the error's name only: the message of a library's exception may hold an address with credentials.
        attempt.error = type(error).__name__
        attempt.finished_at = time.time()
        with observing(_END_IN_HISTORY):
            write_attempt(output, attempt)
        raise
    attempt.finished_at = time.time()
    with observing(_END_IN_HISTORY):
        write_attempt(output, attempt)


def write_attempt(output: Output, attempt: Attempt) -> None:
    """Write ``runs/<id>.json``."""
    output.write_json(f"{HISTORY_FOLDER}/{attempt.attempt}.json", attempt.to_dict())


def attempts_since(output: Output, attempt: str) -> list[str]:
    """Return the ids of the attempts after ``attempt`` that may have changed the output, however they ended."""
    later = [name for name in output.names(HISTORY_FOLDER, ".json") if name > attempt]
    records = output.read_many(f"{HISTORY_FOLDER}/{name}.json" for name in later)
    return [name for name, data in zip(later, records, strict=True) if json.loads(data)["outcome"] != NOTHING_NEW]


def read_history(output_uri: str, storage_options: StorageOptions | None = None) -> list[Attempt]:
    """Return all attempts, the oldest first. Raises UsageError if there are none."""
    output = Output(output_uri, storage_options)
    names = output.names(HISTORY_FOLDER, ".json")
    if not names:
        raise UsageError(f"{output_uri} has no history (no files in {HISTORY_FOLDER}/ there)")
    attempts = [
        _attempt(json.loads(data)) for data in output.read_many(f"{HISTORY_FOLDER}/{name}.json" for name in names)
    ]
    lease = read_lease(output)
    holder = lease.attempt if lease is not None and not lease.is_void(time.time()) else None
    for attempt in attempts:
        if attempt.outcome == RUNNING and attempt.attempt != holder:
            attempt.outcome = KILLED
    return sorted(attempts, key=lambda attempt: attempt.started_at)


def _attempt(plain: Mapping[str, Any]) -> Attempt:
    cost = plain["cost"]
    return Attempt(**{**plain, "cost": None if cost is None else Cost(**cost)})
