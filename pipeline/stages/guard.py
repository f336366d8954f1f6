"""Finds the row that makes a batch fail: the batch is halved until only the row at fault fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.storage import files

log = logging.getLogger(__name__)

MEMORY_PAUSES_S = (0.5, 2.0, 8.0)
"""Pauses before the next attempts at a row for which the device had no memory: other actors may share the device."""

T = TypeVar("T")
R = TypeVar("R")


def run_guarded(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]], stage: str) -> list[R | BadImageError]:
    """Return the results of ``work``, with a BadImageError in place of each item whose data make it fail.

    A batch that fails is halved, and each half is run again. If the device has no memory left, the batch is halved too,
    but this never becomes the error of a row: a single row is tried again after growing pauses, because other actors
    may share the device, and then the exception is raised. Network and permission errors are raised at once.
    """
    try:
        results = _work(items, work)
    except Exception as error:
        if _not_the_data(error):
            raise
        if len(items) > 1:
            middle = len(items) // 2
            log.warning("%s: %s in a batch of %d; halving it", stage, type(error).__name__, len(items))
            return run_guarded(items[:middle], work, stage) + run_guarded(items[middle:], work, stage)
        if _is_device_memory(error):
            raise
        if isinstance(error, BadImageError):
            return [error]
        return [BadImageError(stage, type(error).__name__, str(error))]
    if len(results) != len(items):
        raise RuntimeError(f"{stage} returned {len(results)} results for {len(items)} rows")
    return list(results)


def _work(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    for pause_s in MEMORY_PAUSES_S if len(items) == 1 else ():
        try:
            return list(work(items))
        except Exception as error:
            if not _is_device_memory(error):
                raise
        time.sleep(pause_s)
    return list(work(items))


def _not_the_data(error: Exception) -> bool:
    # Check this first: the cause of a BadImageError is what a decoder raised, and may look like a broken connection.
    if isinstance(error, BadImageError):
        return False
    return files.is_transient(error) or files.is_permission(error)


def _is_device_memory(error: Exception) -> bool:
    # Compare names, so that stages without a model need not import PyTorch.
    return any(f"{kind.__module__}.{kind.__name__}" == "torch.OutOfMemoryError" for kind in type(error).__mro__)
