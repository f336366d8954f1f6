"""Remembers, in one process, which stores have stopped answering, so that not every entry of a list waits for them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

GIVE_UP_AFTER = 3
"""Entries in a row that failed after all their attempts, with no success in between."""
FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 600.0
MOST_HOSTS = 4096


@dataclass(slots=True)
class _State:
    failures: int = 0
    pause_s: float = 0.0
    silent_until: float = 0.0


class Hosts:
    """Safe to share between threads. clock: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._states: OrderedDict[Hashable, _State] = OrderedDict()

    def attempts(self, host: Hashable, usual: int) -> int:
        """Return how often to try an entry of ``host``: as usual; not at all in a pause; once when the pause is over.

        The one that asks after a pause starts the next one, so that the others go on waiting for its answer.
        """
        with self._lock:
            state = self._states.get(host)
            if state is None or state.failures < GIVE_UP_AFTER:
                return usual
            if self._clock() < state.silent_until:
                return 0
            self._pause(state)
            return 1

    def answered(self, host: Hashable) -> None:
        """Say that ``host`` gave an answer, be it that there is no such file."""
        with self._lock:
            self._states.pop(host, None)

    def failed(self, host: Hashable) -> None:
        """Say that an entry failed in all its attempts, or that the one attempt after a pause did."""
        with self._lock:
            state = self._states.setdefault(host, _State())
            self._states.move_to_end(host)
            state.failures += 1
            if state.failures == GIVE_UP_AFTER:
                self._pause(state)
            if len(self._states) > MOST_HOSTS:
                self._states.popitem(last=False)

    def _pause(self, state: _State) -> None:
        state.pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * state.pause_s))
        state.silent_until = self._clock() + state.pause_s
