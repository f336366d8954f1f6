"""The one Ray of a test session: started when a test first needs it, joined by this process and by those it starts."""

from __future__ import annotations

import gc
import time

import ray
from ray._common.utils import reset_ray_address
from ray.cluster_utils import Cluster

from maskmill.pipeline.cluster.connect import IDLE_WORKER_S

CPUS = 2
OBJECT_STORE_BYTES = 300 * 2**20


class SharedRay:
    """A cluster of one node with two CPUs. This process may leave it for a Ray of its own and join it again."""

    def __init__(self) -> None:
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": CPUS,
                "object_store_memory": OBJECT_STORE_BYTES,
                "include_dashboard": False,
                "_system_config": {"idle_worker_killing_time_threshold_ms": IDLE_WORKER_S * 1000},
            },
        )
        # Cluster writes its address where ray.init() without an address looks for a cluster to join.
        reset_ray_address()

    @property
    def address(self) -> str:
        """The address, as --address and ray.init take it."""
        return str(self.cluster.address)

    def join(self) -> None:
        """Put this process on the cluster, and take it off any other Ray."""
        if ray.is_initialized() and ray.get_runtime_context().gcs_address == self.address:
            return
        ray.shutdown()
        ray.init(address=self.address, log_to_driver=False)

    def wait_until_idle(self, timeout_s: float = 240.0) -> None:
        """Wait until no task and no actor holds a CPU; this process is on the cluster.

        Ray Data's actors live as long as the handles to them, which are in circles: a run that ended in this process
        keeps some of its actors until Python collects these.
        """
        deadline = time.monotonic() + timeout_s
        while (free := ray.available_resources().get("CPU", 0.0)) < CPUS:
            assert time.monotonic() < deadline, f"{free:g} of {CPUS} CPUs are free after {timeout_s:g} s"
            gc.collect()
            time.sleep(0.2)

    def end(self) -> None:
        """Take this process off the cluster and end all processes of it."""
        ray.shutdown()
        self.cluster.shutdown()
