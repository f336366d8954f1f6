"""Rows that kill or hang their worker: found by breadcrumbs, tried alone, and then kept away from every model.

Before a batch a worker leaves a breadcrumb for each row with an actor that outlives it (:class:`Trail`); finishing the
batch clears them. Rows found with an unfinished breadcrumb twice are run one by one; a row that takes its worker with
it twice while alone becomes an error and is never run again.
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
DEATHS_ALONE = 2
DESCRIBED_ROWS = 20
EXIT_OVERRAN = 113
"""Exit code of a worker that ended itself because a batch ran past its time-out."""


@dataclass(slots=True)
class History:
    """How often a row's worker died: in a batch with others, and alone; whether the last death was a time-out."""

    together: int = 0
    alone: int = 0
    overran: bool = False


@dataclass(slots=True)
class _Crumb:
    alone: bool
    overran: bool = False


class TooManyDeathsError(RuntimeError):
    """Workers died more often than rows alone can explain."""


@dataclass(slots=True)
class Trail:
    """The breadcrumbs of a run. Holds open ones and the histories of suspects only, so it stays small.

    Ray restarts workers without end; max_deaths bounds it.
    """

    max_deaths: int = 1000
    deaths: int = 0
    begun_at: float = -math.inf
    open: dict[str, _Crumb] = field(default_factory=dict)
    suspects: dict[str, History] = field(default_factory=dict)

    def begin(self, keys: Sequence[str], alone: bool) -> list[History]:
        """Leave a breadcrumb for each key; one that lies there already means that its worker died.

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
        """Clear the breadcrumbs; the histories stay, for a row may kill only now and then."""
        for key in keys:
            self.open.pop(key, None)

    def idle_s(self) -> float:
        """Seconds since a batch was last begun, infinite before the first."""
        return time.monotonic() - self.begun_at

    def describe(self) -> dict[str, list[str]]:
        """What is being worked on: for each stage some of its open rows, as "shard/row"."""
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
    """What a worker needs of the trail; calls return when the trail has taken them in."""

    def begin(self, keys: Sequence[str], alone: bool) -> list[History]:
        """See :meth:`Trail.begin`."""

    def end(self, keys: Sequence[str]) -> None:
        """See :meth:`Trail.end`."""

    def overran(self, keys: Sequence[str]) -> None:
        """See :meth:`Trail.overran`."""


class Quarantine:
    """Runs a stage's work on rows under breadcrumbs, a time-out and a memory limit.

    timeout_s: per batch, and per row once rows run alone. memory_bytes: how much the worker process may take beyond
    what it has at its first batch, weights included; what needs more fails with MemoryError instead of endangering the
    node. None for no limit.
    """

    def __init__(self, trail: TrailClient, stage: str, timeout_s: float, memory_bytes: int | None = None) -> None:
        self.trail = trail
        self.stage = stage
        self.timeout_s = timeout_s
        self.memory_bytes = memory_bytes

    def __call__(self, rows: list[Row], work: Work) -> list[Row | BadImageError]:
        """Apply ``work`` to ``rows``; known killers come back as errors without being run."""
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
            # Native code cannot be interrupted from within its process: only the process can end.
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
    """Let this process take so much memory more than it has now, once; allocations beyond fail with MemoryError.

    Counted is address space, most of which a Ray worker reserves and never uses: over a gigabyte from the start.
    """
    status = Path("/proc/self/status").read_text()
    taken_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (taken_kib * 1024 + more_bytes, hard))


Run = Callable[[list[Row], Work], list[Row | BadImageError]]
"""How a stage runs its work: under quarantine, or plainly."""


def no_quarantine(rows: list[Row], work: Work) -> list[Row | BadImageError]:
    """Run ``work`` as it is: for using a stage without Ray."""
    return list(work(rows))
