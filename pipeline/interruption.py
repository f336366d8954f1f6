"""Handles SIGINT and SIGTERM: the signals are collected, or raised as an exception, instead of ending the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_SIGNAL = 128
"""A process that a signal ends exits with this number plus the signal's, as in shells."""


class InterruptedRunError(BaseException):
    """SIGINT or SIGTERM ended the work; what is finished stays, and the same command continues it.

    It is no subclass of Exception, like KeyboardInterrupt, because it may be raised inside libraries that catch every
    Exception and carry on.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """The exit code of a command that this interruption ends."""
        return EXIT_SIGNAL + self.signal_number


_raised: list[int] = []
"""Signals for which an exception was raised. Python drops exceptions in finalisers, so the body may still run."""


@contextmanager
def signals_collected() -> Iterator[list[int]]:
    """Yield a list that gets the number of each signal that arrives; it begins with those whose exception was lost."""
    received = list(_raised)
    with _handled_by(received.append, SIGNALS):
        yield received


@contextmanager
def interrupts_remembered() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt in the body, as Python does, and remember it until the body ends.

    If Python drops the exception, as it does in finalisers and in callbacks of imports, ``signals_raised`` raises when
    it begins.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    with _raised_as(lambda _number: KeyboardInterrupt(), (signal.SIGINT,)):
        yield


@contextmanager
def signals_raised() -> Iterator[None]:
    """Raise InterruptedRunError in the body when a signal arrives, and at once for a remembered interrupt."""
    if _raised:
        raise InterruptedRunError(_raised[-1])
    with _raised_as(InterruptedRunError, SIGNALS):
        yield


@contextmanager
def _raised_as(error: Callable[[int], BaseException], numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Raise ``error`` of each of these signals that arrives in the body, and remember it until the body ends."""

    def interrupt(number: int) -> None:
        _raised.append(number)
        raise error(number)

    try:
        with _handled_by(interrupt, numbers):
            yield
    finally:
        _raised.clear()


@contextmanager
def _handled_by(handle: Callable[[int], None], numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Call ``handle`` for each of these signals during the body.

    Does nothing outside of the main thread, which gets all signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def call(number: int, _frame: FrameType | None) -> None:
        handle(number)

    before = {number: signal.signal(number, call) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
