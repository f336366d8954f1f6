"""Watches the size of the cluster during a run: what is there is what is paid for."""

from __future__ import annotations

import time

import ray

from maskmill.pipeline.cluster.observing import observing
from maskmill.pipeline.cluster.periodic import PeriodicSampler

SAMPLE_S = 2.0


class ClusterUsage(PeriodicSampler):
    """Integrates the GPUs and CPUs of the Ray cluster over time while its ``with`` block runs. Ray must be running."""

    def __init__(self) -> None:
        super().__init__("usage", SAMPLE_S)
        self.gpu_seconds = 0.0
        self.cpu_seconds = 0.0
        self._sampled_at = time.monotonic()

    def run(self) -> None:
        """Sample until told to stop, and once more then."""
        self._sampled_at = time.monotonic()
        with observing("the cluster's usage"):
            super().run()

    def sample(self) -> None:
        """Add what was there since the last sample."""
        resources = ray.cluster_resources()
        now = time.monotonic()
        elapsed_s, self._sampled_at = now - self._sampled_at, now
        self.gpu_seconds += elapsed_s * resources.get("GPU", 0.0)
        self.cpu_seconds += elapsed_s * resources.get("CPU", 0.0)
