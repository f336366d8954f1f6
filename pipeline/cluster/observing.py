"""Keeps what only watches a run (metrics, usage, progress, messages) from ending it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

_failed: set[str] = set()


@contextmanager
def observing(what: str) -> Iterator[None]:
    """Run the body, and go on after any error in it; the first error of each ``what`` in a process is logged.

    For code whose result the work does not need. Signals and exits (no Exceptions) pass.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 (whatever fails here, the labels are worth more than the watching)
        if what not in _failed:
            _failed.add(what)
            log.warning("%s failed and is incomplete; the work goes on: %s: %s", what, type(error).__name__, error)
