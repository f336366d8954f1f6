"""Finds rows that kill or hang their worker, and turns them into errors.

Before a batch, a worker leaves a breadcrumb for each row with an actor that outlives the worker (:class:`Trail`), and
clears the breadcrumbs after the batch. A breadcrumb that is found there before a batch means that a worker died with
the row. A row found twice is run alone from then on; a row that kills its worker twice while alone becomes an error.
"""

from __future__ import annotations

import math
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.stages.rows import Row, Work

DEATHS_TOGETHER = 2
"""A row whose worker died this often in a batch with others is run alone."""
DEATHS_ALONE = 2
"""A row whose worker died this often while the row ran alone becomes an error."""
DESCRIBED_ROWS = 20
EXIT_OVERRAN = 113
"""Exit code of a worker that ended itself because a batch ran past its time-out."""


@dataclass(slots=True)
class History:
    """How often a row's worker died, in a batch with others and alone, and whether the last death was a time-out."""

    together: int = 0
    alone: int = 0
    overran: bool = False


@dataclass(slots=True)
class _Crumb:
    alone: bool
    overran: bool = False


class TooManyDeathsError(RuntimeError):
    """Workers died more often than bad rows can explain."""


@dataclass(slots=True)
class Trail:
    """The breadcrumbs of a run. It holds open breadcrumbs and the histories of suspects only, so it stays small.

    max_deaths: the limit on deaths of workers, because Ray restarts workers without limit.
    """

    max_deaths: int = 1000
    deaths: int = 0
    begun_at: float = -math.inf
    open: dict[str, _Crumb] = field(default_factory=dict)
    suspects: dict[str, History] = field(default_factory=dict)

    def begin(self, keys: Sequence[str], alone: bool) -> list[History]:
        """Leave a breadcrumb for each key, and return the histories. A key that has one already lost its worker.

        Raises TooManyDeathsError beyond ``max_deaths``.
        """
        self.begun_at = time.monotonic()
        self.deaths += any(key in self.open for key in keys)
        if self.deaths > self.max_deaths:
            raise TooManyDeathsError(f"workers died {self.deaths} times, the last time with {keys[0]}")
        return [self._begin(key, alone) for key in keys]

    def _begin(self, key: str, alone: bool) -> History:
        left = self.open.get(key)
        if left is not None:
            history = self.suspects.setdefault(key, History())
            if left.alone:
                history.alone += 1
            else:
                history.together += 1
            history.overran = left.overran
        self.open[key] = _Crumb(alone)
        return self.suspects.get(key, History())

    def end(self, keys: Sequence[str]) -> None:
        """Clear the breadcrumbs. The histories stay, because a row may kill its worker only sometimes."""
        for key in keys:
            self.open.pop(key, None)

    def idle_s(self) -> float:
        """Return the seconds since a batch was last begun, infinite before the first."""
        return time.monotonic() - self.begun_at

    def describe(self) -> dict[str, list[str]]:
        """Return what is being worked on: for each stage some of its open rows, as "shard/row"."""
        described: dict[str, list[str]] = {}
        for key in self.open:
            stage, _, row = key.partition("/")
            described.setdefault(stage, []).append(row)
        return {stage: rows[:DESCRIBED_ROWS] for stage, rows in described.items()}

    def overran(self, keys: Sequence[str]) -> None:
        """Note that the worker is about to end itself because these rows ran past the time-out."""
        for key in keys:
            if key in self.open:
                self.open[key].overran = True


class TrailClient(Protocol):
    """What a worker uses of the trail. A breadcrumb is in the trail when ``begin`` or ``overran`` returns."""

    def begin(self, keys: Sequence[str], alone: bool) -> list[History]:
        """See :meth:`Trail.begin`."""

    def end(self, keys: Sequence[str]) -> None:
        """See :meth:`Trail.end`."""

    def overran(self, keys: Sequence[str]) -> None:
        """See :meth:`Trail.overran`."""


class Quarantine:
    """Runs a stage's work on rows under breadcrumbs, a time-out and a memory limit.

    timeout_s: for a batch, and for a row that runs alone. memory_bytes: how much memory the worker process may take
    beyond what it has at its first batch, when the weights are loaded; a row that needs more fails with MemoryError
    instead of endangering the node. None for no limit.
    """

    def __init__(self, trail: TrailClient, stage: str, timeout_s: float, memory_bytes: int | None = None) -> None:
        self.trail = trail
        self.stage = stage
        self.timeout_s = timeout_s
        self.memory_bytes = memory_bytes

    def __call__(self, rows: list[Row], work: Work) -> list[Row | BadImageError]:
        """Apply ``work`` to ``rows``; rows known to kill their worker are not run and come back as errors."""
        if self.memory_bytes is not None:
            limit_memory(self.memory_bytes)
        keys = [f"{self.stage}/{row['shard']}/{row['row']}" for row in rows]
        histories = self.trail.begin(keys, alone=False)
        if any(history.together >= DEATHS_TOGETHER for history in histories):
            self.trail.end(keys)
            return [self._alone(row, key, work) for row, key in zip(rows, keys, strict=True)]
        with self._time_limit(keys):
            results = list(work(rows))
        self.trail.end(keys)
        return results

    def _alone(self, row: Row, key: str, work: Work) -> Row | BadImageError:
        history = self.trail.begin([key], alone=True)[0]
        if history.alone >= DEATHS_ALONE:
            self.trail.end([key])
            if history.overran:
                return BadImageError(self.stage, "timed_out", f"ran past {self.timeout_s:g} s twice, alone")
            return BadImageError(self.stage, "worker_died", f"its worker died {history.alone} times, alone")
        with self._time_limit([key]):
            result = work([row])[0]
        self.trail.end([key])
        return result

    @contextmanager
    def _time_limit(self, keys: list[str]) -> Iterator[None]:
        def give_up() -> None:
            # End the process, because native code cannot be interrupted from within its process.
            self.trail.overran(keys)
            os._exit(EXIT_OVERRAN)

        timer = threading.Timer(self.timeout_s, give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


@cache
def limit_memory(more_bytes: int) -> None:
    """Let this process take ``more_bytes`` beyond what it has now; larger allocations fail with MemoryError.

    Only the first call in a process sets the limit. RLIMIT_DATA limits private writable address space, of which a Ray
    worker reserves over a gigabyte at its start without using it; so the limit is set relative to VmData, the kernel's
    figure for the same space. psutil has no such figure: its ``data`` counts the stack as well.
    """
    status = Path("/proc/self/status").read_text()
    taken_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (taken_kib * 1024 + more_bytes, hard))


Run = Callable[[list[Row], Work], list[Row | BadImageError]]
"""How a stage runs its work: under quarantine, or plainly."""


def no_quarantine(rows: list[Row], work: Work) -> list[Row | BadImageError]:
    """Run ``work`` without a quarantine, for a stage that is used without Ray."""
    return list(work(rows))
