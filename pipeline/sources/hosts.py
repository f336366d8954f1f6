"""Remembers, in one process, which stores have stopped answering: the entries of a list need not all wait for them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

GIVE_UP_AFTER = 3
"""So many entries in a row must fail, after all their attempts, before their store is given a pause."""
FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 600.0
MOST_HOSTS = 4096


@dataclass(slots=True)
class _State:
    failures: int = 0
    pause_s: float = 0.0
    silent_until: float = 0.0


class Hosts:
    """The stores that have failed lately; may be shared between threads. clock: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._states: OrderedDict[Hashable, _State] = OrderedDict()

    def attempts(self, host: Hashable, usual: int) -> int:
        """Return how often to try an entry of ``host``: as usual; not at all in a pause; once when the pause is over.

        The first call after a pause begins the next pause, so that other threads wait for the outcome of that one try.
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
        """Record that ``host`` gave an answer; "no such file" is an answer too."""
        with self._lock:
            self._states.pop(host, None)

    def failed(self, host: Hashable) -> None:
        """Record that an entry failed in all its attempts, or in the one attempt after a pause."""
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
