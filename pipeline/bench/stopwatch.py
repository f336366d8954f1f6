"""Measures the time spent in each part of a computation, without the parts nested inside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class Stopwatch:
    """``with stopwatch("part"): ...`` adds to the seconds of "part"; parts may be nested.

    clock: what gives the seconds; ``time.process_time`` counts what this process computes, on a busy machine too.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}
        self._open: list[tuple[str, float]] = []

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._enter(part)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, part: str) -> None:
        now = self._clock()
        if self._open:
            outer, since = self._open[-1]
            self._add(outer, now - since)
        self._open.append((part, now))

    def _leave(self) -> None:
        now = self._clock()
        part, since = self._open.pop()
        self._add(part, now - since)
        if self._open:
            self._open[-1] = (self._open[-1][0], now)

    def _add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def watch_module(self, module: nn.Module, part: str) -> None:
        """Count every call of ``module`` as ``part``."""
        module.register_forward_pre_hook(lambda *_: self._enter(part))
        module.register_forward_hook(lambda *_: self._leave())

    def watch_method(self, owner: object, name: str, part: str) -> None:
        """Count every call of ``owner.name`` as ``part``."""
        method = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            with self(part):
                return method(*arguments, **named)

        setattr(owner, name, counted)
