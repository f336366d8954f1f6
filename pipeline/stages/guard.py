"""How a stage meets an exception: a batch is halved until only the row at fault fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.storage import files

log = logging.getLogger(__name__)

MEMORY_PAUSES_S = (0.5, 2.0, 8.0)
"""Before further attempts at a row for which the device had no memory; actors that share one use it by turns."""

T = TypeVar("T")
R = TypeVar("R")


def run_guarded(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]], stage: str) -> list[R | BadImageError]:
    """Apply ``work`` to ``items``; entries whose data make it fail come back as BadImageError, the rest as results.

    A failing batch is bisected. GPU memory exhaustion halves the batch as well, but never becomes a row's error: a
    single row is tried again after growing pauses, for others may share the device, and then it is raised. Network and
    permission errors are raised as they are.
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
    # What a decoder raised is kept as the cause of a bad image, and may look like a broken connection.
    if isinstance(error, BadImageError):
        return False
    return files.is_transient(error) or files.is_permission(error)


def _is_device_memory(error: Exception) -> bool:
    # By name, so that stages without a model need not import PyTorch.
    return any(f"{kind.__module__}.{kind.__name__}" == "torch.OutOfMemoryError" for kind in type(error).__mro__)
