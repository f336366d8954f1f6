"""Measures the GPU and CPU time that the cluster offered during a run, used or not, since all of it is paid for."""

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
        """Sample until the block ends; an error ends the sampling and is logged."""
        self._sampled_at = time.monotonic()
        with observing("the cluster's usage"):
            super().run()

    def sample(self) -> None:
        """Add the time since the last sample for every GPU and CPU of the cluster."""
        resources = ray.cluster_resources()
        now = time.monotonic()
        elapsed_s, self._sampled_at = now - self._sampled_at, now
        self.gpu_seconds += elapsed_s * resources.get("GPU", 0.0)
        self.cpu_seconds += elapsed_s * resources.get("CPU", 0.0)
