"""Shards whose reading kills, hangs or bloats its worker: found by breadcrumbs, as rows are, and then one error each.

A shard is read in runs of records. Before each run its worker leaves a breadcrumb with the place in the shard; what
works on the records in between, such as decoding, does not count. A run that died twice is read record by record, and
at a record that kills twice alone the rest of the shard is given up. Readers are deterministic, so that damage kills at
the same record each time, while a node that is lost strikes anywhere.
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
    """How one shard is read: under quarantine, or plainly."""

    def records(self, records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
        """Yield the records."""

    def pause(self) -> None:
        """What follows is not reading, up to the next record."""


class PlainReading:
    """Reads without a quarantine: for using a stage without Ray."""

    def records(self, records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
        """Yield the records."""
        yield from records

    def pause(self) -> None:
        """Nothing to do."""


class ShardQuarantine:
    """Reads shards under breadcrumbs, a time-out and a memory limit. Picklable.

    timeout_s: seconds of CPU that the reader may take without coming to a next record. Waiting for storage takes no CPU
    and has time-outs of its own, so a slow store is never taken for a damaged shard. For archives on a local disk
    waiting counts as well. memory_bytes: see :class:`maskmill.pipeline.stages.quarantine.Quarantine`.
    """

    def __init__(self, trail: TrailClient, timeout_s: float, memory_bytes: int | None = None) -> None:
        self.trail = trail
        self.timeout_s = timeout_s
        self.memory_bytes = memory_bytes

    def __call__(self, index: int, shard: Shard) -> ShardReading:
        """The reading of the shard that has this place in the run's list."""
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
        """Yield the records. Raises ShardError in place of the one whose reading has killed too often before."""
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
        """What follows is not reading, up to the next record."""
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
    """Ends this process when the thread that started the clock works on one record for too long."""

    def __init__(self, timeout_s: float, *, counts_waiting: bool) -> None:
        self.timeout_s = timeout_s
        self.counts_waiting = counts_waiting
        self._stopped = threading.Event()

    def start(self, before_the_end: Callable[[], None]) -> None:
        """Begin to watch the calling thread."""
        clock = time.CLOCK_MONOTONIC if self.counts_waiting else time.pthread_getcpuclockid(threading.get_ident())
        self._clock_id = clock
        self._stopped = stopped = threading.Event()
        self.progressed()

        def watch() -> None:
            while not stopped.wait(min(LONGEST_CHECK_S, self.timeout_s / 4)):
                if time.clock_gettime(clock) - self._at > self.timeout_s:
                    # Native code cannot be interrupted from within its process: only the process can end.
                    before_the_end()
                    os._exit(EXIT_OVERRAN)

        threading.Thread(target=watch, name="reading", daemon=True).start()

    def progressed(self) -> None:
        """The thread came to a next record."""
        self._at = time.clock_gettime(self._clock_id)

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()
