"""Keeps code that only watches a run (metrics, usage, progress) from ending the run with its errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

_failed: set[str] = set()


@contextmanager
def observing(what: str) -> Iterator[None]:
    """Run the body, and continue after an error in it; the first error of each ``what`` in a process is logged.

    Use it for code whose result the work does not need. Signals and exits, which are no Exceptions, pass through.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 (the labels are worth more than watching the run)
        if what not in _failed:
            _failed.add(what)
            log.warning("%s failed and is incomplete; the work goes on: %s: %s", what, type(error).__name__, error)
