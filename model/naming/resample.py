"""Bilinear resizing in bands of rows, equal to ``F.interpolate(mode="bilinear", align_corners=False)`` of the whole.

Legend for shapes: K maps, h x w source, R x W wanted rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Taps:
    """Along one axis, the two source indices (N,) int64 each output lies between, and the weight (N,) of the higher.

    ``taps`` makes them on the host, where ``span`` can be read without waiting for a device.
    """

    low: Tensor
    high: Tensor
    weight: Tensor

    @property
    def span(self) -> tuple[int, int]:
        """First source index and one beyond the last; outputs must be in order."""
        return int(self.low[0]), int(self.high[-1]) + 1

    def to(self, device: torch.device) -> Taps:
        """The same points on ``device``."""
        return Taps(self.low.to(device), self.high.to(device), self.weight.to(device))

    @property
    def from_start(self) -> Taps:
        """The same points in a source of which only ``span`` is left."""
        first = self.low[0]
        return Taps(self.low - first, self.high - first, self.weight)

    def at(self, index: Tensor) -> Taps:
        """Return only the outputs ``index``."""
        return Taps(self.low[index], self.high[index], self.weight[index])


def taps(source: int, size: int, start: int, stop: int) -> Taps:
    """Return on the host the sampling points of outputs start..stop when ``source`` entries are resized to ``size``."""
    centres = torch.arange(start, stop, dtype=torch.float32) + 0.5
    # The scale is rounded to float32 as PyTorch's own kernels do.
    scale = torch.tensor(source / size, dtype=torch.float32)
    points = (centres * scale - 0.5).clamp(min=0)
    low = points.long().clamp(max=source - 1)
    weight = points - low
    # A point that hits an entry needs no second one, so a span is no longer than what is used.
    return Taps(low, (low + (weight > 0)).clamp(max=source - 1), weight)


def resize_rows(maps: Tensor, rows: Taps, width: int) -> Tensor:
    """Return (K, R, width): ``maps`` (K, h, w) resized, sampled at the given rows and all columns."""
    maps = torch.lerp(maps.index_select(1, rows.low), maps.index_select(1, rows.high), rows.weight[:, None])
    if width == maps.shape[2]:
        return maps
    return F.interpolate(maps[None], (maps.shape[1], width), mode="bilinear", align_corners=False)[0]
