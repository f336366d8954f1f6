"""The way of arrays to a device and back: pinned memory and copy streams on CUDA, no copy at all on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

CONSTANTS_KEPT = 256


class Transfers:
    """Copies between the host and ``device``.

    On CUDA, uploads and downloads have a stream each, so that they run beside the kernels, from and to pinned memory.
    On other devices arrays and tensors share their memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        if device.type == "cuda":
            self._streams = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def host_buffer(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor on the host, to be filled and uploaded."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=self._streams is not None)

    def upload(self, host: Tensor) -> Tensor:
        """Return ``host`` on the device; later work on the current stream waits for it, the caller does not."""
        if self._streams is None:
            return host.to(self.device)
        up, current = self._streams[0], torch.cuda.current_stream(self.device)
        with torch.cuda.stream(up):
            on_device = host.to(self.device, non_blocking=True)
        current.wait_stream(up)
        on_device.record_stream(current)
        return on_device

    def upload_array(self, array: np.ndarray) -> Tensor:
        """Return a small array on the device; as ``upload``."""
        values = torch.from_numpy(np.ascontiguousarray(array))
        return self.upload(values.pin_memory() if self._streams is not None else values)

    def fetch(self, tensors: Sequence[Tensor]) -> list[np.ndarray]:
        """Return the tensors as arrays on the host, with one wait for all of them."""
        if self._streams is None:
            return [tensor.numpy() for tensor in tensors]
        down = self._streams[1]
        down.wait_stream(torch.cuda.current_stream(self.device))
        hosts = []
        with torch.cuda.stream(down):
            for tensor in tensors:
                host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                hosts.append(host.copy_(tensor, non_blocking=True))
                tensor.record_stream(down)
            copied = down.record_event()
        copied.synchronize()
        return [host.numpy() for host in hosts]


@lru_cache(maxsize=CONSTANTS_KEPT)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return the values as a (N,) float32 tensor on the device, made once: each copy from the host is a wait."""
    return torch.tensor(values, dtype=torch.float32, device=device)
