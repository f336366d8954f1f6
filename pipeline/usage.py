"""Watches the size of the cluster during a run: what is there is what is paid for."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import ray

SAMPLE_S = 2.0


class ClusterUsage(threading.Thread):
    """Integrates the GPUs and CPUs of the Ray cluster over time while its ``with`` block runs. Ray must be running."""

    def __init__(self) -> None:
        super().__init__(name="usage", daemon=True)
        self.gpu_seconds = 0.0
        self.cpu_seconds = 0.0
        self._ended = threading.Event()
        self._sampled_at = time.monotonic()

    def __enter__(self) -> ClusterUsage:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Sample until told to stop, and once more then."""
        self._sampled_at = time.monotonic()
        try:
            while not self._ended.wait(SAMPLE_S):
                self._sample()
            self._sample()
        except (ray.exceptions.RayError, ConnectionError):
            # The cluster is gone, which the run itself reports; the sums stand as they were.
            return

    def _sample(self) -> None:
        resources = ray.cluster_resources()
        now = time.monotonic()
        elapsed_s, self._sampled_at = now - self._sampled_at, now
        self.gpu_seconds += elapsed_s * resources.get("GPU", 0.0)
        self.cpu_seconds += elapsed_s * resources.get("CPU", 0.0)
