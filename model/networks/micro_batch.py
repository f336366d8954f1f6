"""Networks run over many inputs in batches of bounded size, made smaller where the device has too little memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class MicroBatches:
    """Runs a network over inputs, at most ``pixels`` at a time; halves that for good when a GPU runs out of memory.

    pixels: height x width of the inputs, summed over a batch, which has at least one input.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels

    def __call__(self, run: Callable[[int, int], Result], count: int, pixels_each: int) -> list[Result]:
        """Return what ``run(start, stop)`` gives for consecutive parts of ``count`` inputs.

        Raises torch.OutOfMemoryError where even one input is too much.
        """
        results: list[Result] = []
        start = 0
        while start < count:
            size = min(max(1, self.pixels // pixels_each), count - start)
            try:
                results.append(run(start, start + size))
            except torch.cuda.OutOfMemoryError:
                if size == 1:
                    raise
                self.pixels = size // 2 * pixels_each
                torch.cuda.empty_cache()
                logger.warning("out of GPU memory with %d inputs at a time; going on with %d", size, size // 2)
            else:
                start += size
        return results
