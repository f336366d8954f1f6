"""Waits for work that may never end, and gives up on a signal, at a time-out, or on signs that it cannot succeed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from maskmill.pipeline.interruption import InterruptedRunError, signals_collected

POLL_S = 0.2

T = TypeVar("T")


class StalledError(RuntimeError):
    """Nothing happened until the time-out; the message says what was in flight."""


class WorkersBrokenError(RuntimeError):
    """Ray's workers cannot start or cannot run anything; the message holds their error."""


def attended(
    work: Callable[[], T],
    *,
    timeout_s: float,
    what: str,
    look: Callable[[float], None] | None = None,
    keep_thread: bool = False,
) -> T:
    """Return ``work()``, run in a background thread, so that this thread can act while the work waits.

    what: names the work in messages. look: called about every POLL_S with the seconds waited so far; it may raise.
    keep_thread: the thread lives as long as the process, for work that starts processes which end with their thread.

    Raises what ``work`` or ``look`` raises, InterruptedRunError on SIGINT and SIGTERM, and StalledError after
    ``timeout_s``. Unless ``work`` itself raised, its thread still runs then: the process should end with os._exit.
    """
    outcome = _in_background(work, name=what, keep_thread=keep_thread)
    started_at = time.monotonic()
    with signals_collected() as signals:
        while not wait([outcome], timeout=POLL_S).done:
            if signals:
                raise InterruptedRunError(signals[0])
            waited_s = time.monotonic() - started_at
            if look is not None:
                look(waited_s)
            if waited_s > timeout_s:
                raise StalledError(f"{what} did not end within {timeout_s:g} s")
        return outcome.result()


def _in_background(work: Callable[[], T], *, name: str, keep_thread: bool) -> Future[T]:
    """Start ``work`` in a daemon thread, which does not keep the process alive, and return its future result."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 (outcome.result() raises the error in the waiting thread)
            outcome.set_exception(error)
        if keep_thread:
            threading.Event().wait()

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome
