"""Finds shards whose reading kills or hangs its worker, and turns the rest of such a shard into one error.

A shard is read in stretches of records. Before each stretch the worker leaves a breadcrumb with the place in the shard
(see ``quarantine.py``); work on the records between two stretches, such as decoding, does not count. A stretch in which
the worker died twice is read record by record. At a record that kills its worker twice alone, the rest of the shard is
given up. Readers are deterministic, so damage kills at the same record each time, and a lost node at any record.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from maskmill.pipeline.sources import ImageRecord, Shard, ShardError
from maskmill.pipeline.stages.quarantine import DEATHS_ALONE, DEATHS_TOGETHER, EXIT_OVERRAN, TrailClient, limit_memory

LONGEST_CHECK_S = 1.0


class ShardReading(Protocol):
    """How one shard is read: with or without a quarantine."""

    def records(self, records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
        """Yield the records."""

    def pause(self) -> None:
        """Stop watching until the next record is read, because what follows is not reading."""


class PlainReading:
    """Reads without a quarantine, for a stage that is used without Ray."""

    def records(self, records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
        """Yield the records."""
        yield from records

    def pause(self) -> None:
        """Do nothing."""


class ShardQuarantine:
    """Reads shards under breadcrumbs, a time-out and a memory limit. Picklable.

    timeout_s: seconds of CPU that the reader may take for one record. Waiting for storage takes no CPU and has separate
    time-outs, so a slow store is never taken for a damaged shard. For archives on a local disk, waiting counts as well.
    memory_bytes: see :class:`maskmill.pipeline.stages.quarantine.Quarantine`.
    """

    def __init__(self, trail: TrailClient, timeout_s: float, memory_bytes: int | None = None) -> None:
        self.trail = trail
        self.timeout_s = timeout_s
        self.memory_bytes = memory_bytes

    def __call__(self, index: int, shard: Shard) -> ShardReading:
        """Return the reading of ``shard``, which has the place ``index`` in the run's list of tasks."""
        return _WatchedReading(self, index, shard)


class _WatchedReading:
    def __init__(self, quarantine: ShardQuarantine, index: int, shard: Shard) -> None:
        self.quarantine = quarantine
        self.index = index
        self.shard = shard
        self.number = 0
        self.key: str | None = None
        self.alone = False
        self.clock = _Clock(quarantine.timeout_s, counts_waiting=shard.kind == "tar" and "://" not in shard.location)

    def records(self, records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
        """Yield the records. Raises ShardError in place of a record whose reading killed its worker too often."""
        iterator = iter(records)
        try:
            while True:
                if self.key is None:
                    self._begin()
                record = next(iterator, None)
                self.clock.progressed()
                if record is None:
                    return
                self.number += 1
                if self.alone:
                    self._end()
                yield record
        except MemoryError as error:
            raise self._error("reading on takes more memory than a worker may have") from error
        finally:
            self.pause()

    def _begin(self) -> None:
        quarantine = self.quarantine
        if quarantine.memory_bytes is not None:
            limit_memory(quarantine.memory_bytes)
        key = f"read/{self.index}/{self.number}"
        history = quarantine.trail.begin([key], alone=self.alone)[0]
        if not self.alone and history.together >= DEATHS_TOGETHER:
            self.alone = True
            quarantine.trail.end([key])
            history = quarantine.trail.begin([key], alone=True)[0]
        self.key = key
        if self.alone and history.alone >= DEATHS_ALONE:
            if history.overran:
                raise self._error(f"reading on ran past {quarantine.timeout_s:g} s twice")
            raise self._error(f"reading on killed its worker {history.alone} times")
        self.clock.start(lambda: quarantine.trail.overran([key]))

    def pause(self) -> None:
        """Stop watching until the next record is read, because what follows is not reading."""
        self._end()
        self.alone = False

    def _end(self) -> None:
        if self.key is not None:
            self.clock.stop()
            self.quarantine.trail.end([self.key])
            self.key = None

    def _error(self, message: str) -> ShardError:
        return ShardError(self.shard.shard_id, message, self.number)


class _Clock:
    """Ends this process if the thread that started the clock works on one record for too long."""

    def __init__(self, timeout_s: float, *, counts_waiting: bool) -> None:
        self.timeout_s = timeout_s
        self.counts_waiting = counts_waiting
        self._stopped = threading.Event()

    def start(self, before_the_end: Callable[[], None]) -> None:
        """Begin to watch the calling thread. before_the_end: called before the process ends."""
        clock = time.CLOCK_MONOTONIC if self.counts_waiting else time.pthread_getcpuclockid(threading.get_ident())
        self._clock_id = clock
        self._stopped = stopped = threading.Event()
        self.progressed()

        def watch() -> None:
            while not stopped.wait(min(LONGEST_CHECK_S, self.timeout_s / 4)):
                if time.clock_gettime(clock) - self._at > self.timeout_s:
                    # End the process, because native code cannot be interrupted from within its process.
                    before_the_end()
                    os._exit(EXIT_OVERRAN)

        threading.Thread(target=watch, name="reading", daemon=True).start()

    def progressed(self) -> None:
        """Note that the thread came to the next record."""
        self._at = time.clock_gettime(self._clock_id)

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
