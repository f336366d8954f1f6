"""Waits for work that may never end: with an eye on signals, on the clock, and on signs that it cannot succeed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from maskmill.pipeline.interruption import InterruptedRunError, signals_collected

POLL_S = 0.2

T = TypeVar("T")


class StalledError(RuntimeError):
    """Nothing happened for the stall time-out; the message says what was in flight."""


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
    """Return ``work()``, done in a thread of its own, so that nothing inside of it can keep this thread from acting.

    what: names the work in messages. look: called again and again with the seconds waited; it may raise. keep_thread:
    the thread lives as long as the process, for work whose child processes end with the thread that started them.

    Raises what ``work`` raises; InterruptedRunError on SIGINT and SIGTERM; StalledError after ``timeout_s``. The
    thread goes on in the last two cases and where ``look`` raises: the process should end with os._exit.
    """
    outcome: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            outcome.put((work(), None))
        except BaseException as error:  # noqa: BLE001 (handed over whole, and raised below)
            outcome.put((None, error))
        if keep_thread:
            threading.Event().wait()

    threading.Thread(target=run, name=what, daemon=True).start()
    started_at = time.monotonic()
    with signals_collected() as received:
        while True:
            try:
                result, error = outcome.get(timeout=POLL_S)
            except queue.Empty:
                pass
            else:
                if error is not None:
                    raise error
                return result  # type: ignore[return-value]
            if received:
                raise InterruptedRunError(received[0])
            waited_s = time.monotonic() - started_at
            if look is not None:
                look(waited_s)
            if waited_s > timeout_s:
                raise StalledError(f"{what} did not end within {timeout_s:g} s")
