"""How pools are sized, and that a run that could not start is refused before Ray does."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from maskmill.pipeline.cluster.pools import Pool, check_fits, plan_pools
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.errors import UsageError


def config(**settings: Any) -> LabelConfig:
    return LabelConfig(input="in", output="out", classes="cat", **settings)


@pytest.mark.parametrize(
    ("settings", "cpus", "gpus", "propose", "classify"),
    [
        ({}, 2, 0, Pool(2, 16, 0.5, 0.0), None),
        ({}, 1, 0, Pool(1, 16, 0.5, 0.0), None),
        ({}, 64, 0, Pool(64, 16, 0.5, 0.0), None),
        ({}, 32, 4, Pool(4, 16, 1.0, 1.0), None),
        ({"fuse": "off"}, 2, 0, Pool(1, 16, 0.5, 0.0), Pool(1, 16, 0.5, 0.0)),
        ({"fuse": "off"}, 1, 0, Pool(1, 16, 0.25, 0.0), Pool(1, 16, 0.25, 0.0)),
        ({"fuse": "off"}, 32, 4, Pool(4, 16, 1.0, 0.5), Pool(4, 16, 1.0, 0.5)),
        ({"classify_gpus": 0.25, "classify_actors": 2}, 8, 1, Pool(1, 16, 1.0, 0.5), Pool(2, 16, 1.0, 0.25)),
        ({"propose_actors": 3, "propose_cpus": 2, "propose_batch_size": 4}, 8, 0, Pool(3, 4, 2.0, 0.0), None),
    ],
)
def test_pools_fill_the_machine_and_leave_room_for_tasks(
    settings: dict[str, Any], cpus: float, gpus: float, propose: Pool, classify: Pool | None
) -> None:
    pools = plan_pools(config(**settings), cpus, gpus)
    assert (pools.propose, pools.classify) == (propose, classify)
    check_fits(pools, config(**settings), cpus, gpus)


def test_an_actor_uses_as_many_threads_as_it_reserved_cpus() -> None:
    assert [Pool(1, 1, cpus, 0).threads for cpus in (0.25, 1.0, 2.5, 4.0)] == [1, 1, 2, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"propose_actors": 4, "propose_cpus": 1}, "need 4.25 CPUs, there are 2; lower propose_actors"),
        ({"propose_actors": 2, "propose_cpus": 1}, "need 2.25 CPUs"),
        ({"propose_gpus": 1}, "need 2 GPUs, there are 0"),
        ({"fuse": "off", "classify_gpus": 0.5}, "need 0.5 GPUs, there are 0"),
    ],
)
def test_pools_that_would_wait_for_ever_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_fits(plan_pools(config(**settings), 2, 0), config(**settings), 2, 0)


def test_workers_that_run_no_model_do_without_pytorch() -> None:
    """Importing it takes seconds of CPU in every process that reads, decodes, encodes or commits."""
    light = (
        "maskmill.pipeline.stages.read",
        "maskmill.pipeline.stages.encode",
        "maskmill.pipeline.output.commit",
        "maskmill.pipeline.stages.quarantine",
        "maskmill.pipeline.cluster.trail",
    )
    program = f"import sys, {', '.join(light)}; sys.exit('torch' in sys.modules or 'ray.data' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
