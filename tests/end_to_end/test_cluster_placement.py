"""On a cluster of five nodes: which stage runs where, and what losing a GPU node in the middle of a run costs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_actors, list_tasks

import maskmill.pipeline.cluster.flow
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.run.execute import Progress, run_plan
from maskmill.pipeline.run.plan import plan_run
from maskmill.pipeline.shapes.write import ShapesSettings, write_shapes
from maskmill.pipeline.stages.model import ProposeStage
from maskmill.pipeline.stages.rows import Row
from tests.end_to_end.conftest import read_rows

IMAGES, SHARDS = 120, 12
HELD_SHARDS = 2
STORE = 120 * 2**20
TASK_STAGES = {"read", "decode", "encode"}
MODEL_STAGES = {"ProposeStage", "ClassifyStage"}


@dataclass
class Nodes:
    """A head without CPUs, two nodes of CPUs and two with a logical GPU; ids by pool."""

    cluster: Cluster
    pools: dict[str, list[str]] = field(default_factory=dict)
    handles: dict[str, Any] = field(default_factory=dict)

    def add(self, pool: str, **resources: Any) -> str:
        node = self.cluster.add_node(labels={"pool": pool}, object_store_memory=STORE, **resources)
        self.handles[node.node_id] = node
        self.pools.setdefault(pool, []).append(node.node_id)
        return node.node_id


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    ray.shutdown()  # tests of other files share a Ray
    cluster = Cluster()
    cluster.add_node(num_cpus=0, num_gpus=0, object_store_memory=STORE, include_dashboard=True, dashboard_port=0)
    found = Nodes(cluster)
    ray.init(address=cluster.address, log_to_driver=False)
    found.pools["head"] = [ray.get_runtime_context().get_node_id()]
    for pool, resources in (("cpu", {"num_cpus": 2}), ("gpu", {"num_cpus": 1, "num_gpus": 1})):
        for _ in range(2):
            found.add(pool, **resources)
    cluster.wait_for_nodes()
    yield found
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("placed")
    write_shapes(str(root), ShapesSettings(images=IMAGES, seed=9, file_format="wds", shard_size=IMAGES // SHARDS))
    return root


def run(source: Path, output: Path, on_progress: Any = lambda progress: None) -> None:
    config = LabelConfig(
        input=str(source),
        output=str(output),
        classes=str(source / "classes.json"),
        propose_actors=2,
        propose_gpus=0.5,
        propose_cpus=0.25,
        classify_actors=2,
        classify_gpus=0.25,
        classify_cpus=0.25,
        task_label={"pool": "cpu"},
        device="cpu",  # the GPUs are logical
        propose_batch_size=4,
        classify_batch_size=4,
        encode_batch_size=8,  # so that shards are done though some images are held
    )
    run_plan(plan_run(config), on_progress)


def assert_exact(output: Path) -> None:
    rows = read_rows(output)
    assert len(rows) == len({row["image_id"] for row in rows}) == IMAGES
    assert not list(output.glob("errors/*"))


def stage_of(name: str) -> set[str]:
    """The stages in the name that Ray shows: "ReadStage", "MapBatches(read)->MapBatches(decode)", "commit_shard" ..."""
    known = (*TASK_STAGES, *MODEL_STAGES, "commit_shard", "Trail")
    return {stage for stage in known if f"({stage})" in name or name.startswith(stage)}


def nodes_by_stage(address: str) -> dict[str, set[str]]:
    """Where tasks and actors of each stage ran, as Ray's state API has it."""
    found: dict[str, set[str]] = {}
    tasks = list_tasks(address, limit=10_000, detail=True, filters=[("type", "=", "NORMAL_TASK")])
    for entry in tasks:
        for stage in stage_of(entry.name) | stage_of(entry.func_or_class_name):
            if entry.node_id:
                found.setdefault(stage, set()).add(entry.node_id)
    for actor in list_actors(address, limit=1000, detail=True):
        for stage in stage_of(actor.class_name):
            if actor.node_id:
                found.setdefault(stage, set()).add(actor.node_id)
    return found


@pytest.mark.slow
def test_each_stage_runs_where_it_belongs(nodes: Nodes, source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    assert_exact(tmp_path / "out")
    placed = nodes_by_stage(nodes.cluster.address)
    assert set(placed) >= TASK_STAGES | MODEL_STAGES | {"commit_shard", "Trail"}
    cpu, gpu, head = (set(nodes.pools[pool]) for pool in ("cpu", "gpu", "head"))
    for stage in (*TASK_STAGES, "commit_shard", "Trail"):
        assert placed[stage] <= cpu, stage
    for stage in MODEL_STAGES:
        assert placed[stage] <= gpu, stage
    assert not any(used & head for used in placed.values())


def propose_stage_held_by(gate: Path) -> type:
    """The stage of the model that proposes; it stands still at images of the last shards until there is a file."""

    class HeldStage(ProposeStage):
        def _propose(self, rows: Sequence[Row]) -> list[Row]:
            while not gate.exists() and max(row["shard"] for row in rows) >= SHARDS - HELD_SHARDS:
                time.sleep(0.05)
            return super()._propose(rows)

    HeldStage.__name__ = "ProposeStage"  # what Ray's state API shows
    return HeldStage


class LoseANode:
    """Takes a GPU node away when some shards are committed, as a spot market does, and gives another for it.

    Called by the run's loop: Ray starts nodes from the main thread only. The new node comes without waiting for
    progress, since those left have no room for all of the actors that were lost. The rest of the work is held until one
    of them is on the new node.
    """

    def __init__(self, nodes: Nodes, gate: Path) -> None:
        self.nodes = nodes
        self.gate = gate
        self.lost_at: int | None = None
        self.stages_on_new_node: set[str] = set()

    def __call__(self, progress: Progress) -> None:
        if self.lost_at is None and progress.shards_done >= 2:
            self.lost_at = progress.shards_done
            lost = self.nodes.pools["gpu"].pop(0)
            self.nodes.cluster.remove_node(self.nodes.handles[lost], allow_graceful=False)
            new = self.nodes.add("gpu", num_cpus=1, num_gpus=1)
            try:
                self.stages_on_new_node = wait_for_actors(self.nodes.cluster.address, new)
            finally:
                self.gate.touch()


def wait_for_actors(address: str, node_id: str) -> set[str]:
    """The stages of the model that have an actor at work on a node, once there is one; none after four minutes."""
    deadline = time.monotonic() + 240
    found: set[str] = set()
    while not found and time.monotonic() < deadline:
        time.sleep(0.2)
        alive = list_actors(address, limit=1000, detail=True, filters=[("state", "=", "ALIVE")])
        found = {stage for actor in alive if actor.node_id == node_id for stage in stage_of(actor.class_name)}
        found &= MODEL_STAGES
    return found


@pytest.mark.slow
@pytest.mark.faults
def test_a_lost_gpu_node_costs_no_image(
    nodes: Nodes, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setattr(maskmill.pipeline.cluster.flow, "ProposeStage", propose_stage_held_by(gate))
    loss = LoseANode(nodes, gate)
    run(source, tmp_path / "out", loss)
    assert loss.lost_at is not None
    assert loss.lost_at <= SHARDS - HELD_SHARDS
    assert_exact(tmp_path / "out")
    assert loss.stages_on_new_node, "no actor was started on the new node"
