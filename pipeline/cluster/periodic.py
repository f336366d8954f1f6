"""Takes a sample of something at regular intervals, in a background thread, for as long as a ``with`` block runs."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class PeriodicSampler(threading.Thread, ABC):
    """Calls ``sample`` every ``every_s`` seconds, and once more at the end of its ``with`` block."""

    def __init__(self, name: str, every_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self._every_s = every_s
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Sample until the block ends."""
        while not self._ended.wait(self._every_s):
            self.sample()
        self.sample()

    @abstractmethod
    def sample(self) -> None:
        """Take one sample."""
