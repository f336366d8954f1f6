"""Signals are never lost, wherever the program is when they come."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from maskmill.pipeline.interruption import InterruptedRunError, signals_collected, signals_raised

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


class Finalised:
    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        send(self.number)


@pytest.mark.parametrize("number", SIGNALS)
def test_libraries_that_go_on_after_exceptions_do_not_go_on_after_a_signal(number: signal.Signals) -> None:
    with pytest.raises(InterruptedRunError) as caught, signals_raised(), contextlib.suppress(Exception):
        send(number)
    assert caught.value.exit_code == 128 + number


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", SIGNALS)
def test_what_python_drops_in_a_finaliser_is_collected_later(number: signal.Signals) -> None:
    with signals_raised():
        Finalised(number)
        with signals_collected() as received:
            assert received == [number]
            send(number)
            assert received == [number, number]
    with signals_collected() as received:
        assert received == []


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with signals_raised(), signals_collected():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
