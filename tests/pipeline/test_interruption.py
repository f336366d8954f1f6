"""Signals are never lost, wherever the program is when they come."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from maskmill.pipeline.interruption import (
    InterruptedRunError,
    interrupts_remembered,
    signals_collected,
    signals_raised,
)

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


@pytest.fixture
def _pythons_own_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_pythons_own_handler")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_ends_the_run_when_it_begins() -> None:
    with interrupts_remembered():
        Finalised(signal.SIGINT)
        with pytest.raises(InterruptedRunError), signals_raised():
            pytest.fail("the run began")
    with signals_raised():
        pass


@pytest.mark.usefixtures("_pythons_own_handler")
def test_an_interrupt_that_arrives_ends_the_program() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts_remembered():
        send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
