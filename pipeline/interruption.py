"""SIGINT and SIGTERM: noted or raised where the work can act on them. Ray's own handlers would end the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_SIGNAL = 128
"""A process ended by a signal exits with this and the signal's number, as a shell would say it."""


class InterruptedRunError(BaseException):
    """SIGINT or SIGTERM ended the work; what is finished stays, and the same command continues it.

    Like KeyboardInterrupt no Exception: it may be raised inside libraries that try something else after any of those.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends because of it."""
        return EXIT_SIGNAL + self.signal_number


_raised: list[int] = []
"""Signals that were raised and yet did not end the body: Python drops what is raised in finalisers."""


@contextmanager
def signals_collected() -> Iterator[list[int]]:
    """Collect the numbers of the signals that come, instead of dying of them; begins with those that were dropped."""
    received = list(_raised)
    with _handled_by(received.append):
        yield received


@contextmanager
def signals_raised() -> Iterator[None]:
    """Raise InterruptedRunError wherever the body is when a signal comes."""

    def interrupt(number: int) -> None:
        _raised.append(number)
        raise InterruptedRunError(number)

    try:
        with _handled_by(interrupt):
            yield
    finally:
        _raised.clear()


@contextmanager
def _handled_by(handle: Callable[[int], None]) -> Iterator[None]:
    """Python delivers signals to the main thread only: elsewhere nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def call(number: int, _frame: FrameType | None) -> None:
        handle(number)

    before = {number: signal.signal(number, call) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
