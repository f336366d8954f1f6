"""cluster.yaml as Ray's launcher reads it: valid, no work on the head, spot GPUs, nothing secret, our versions."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[1]
Cluster = dict[str, Any]


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def launcher_accepts(cluster: Cluster) -> Cluster:
    """What ``ray up`` does first, without touching the cloud; returns the configuration it would go on with."""
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return prepared


def test_the_launcher_accepts_it(cluster: Cluster) -> None:
    prepared = launcher_accepts(cluster)
    # The GPU pool's own set-up replaces the one of the other workers.
    assert not any("whl/cpu" in command for command in prepared["available_node_types"]["gpu"]["worker_setup_commands"])
    assert any("whl/cpu" in command for command in prepared["worker_setup_commands"])


def misspell(cluster: Cluster) -> None:
    cluster["idle_timeout_minute"] = cluster.pop("idle_timeout_minutes")


def text_for_a_number(cluster: Cluster) -> None:
    cluster["available_node_types"]["gpu"]["max_workers"] = "many"


def unknown_head(cluster: Cluster) -> None:
    cluster["head_node_type"] = "boss"


def too_many(cluster: Cluster) -> None:
    cluster["available_node_types"]["cpu"]["min_workers"] = cluster["max_workers"] + 1


@pytest.mark.parametrize("break_it", [misspell, text_for_a_number, unknown_head, too_many])
def test_the_launcher_refuses_a_broken_one(cluster: Cluster, break_it: Callable[[Cluster], None]) -> None:
    broken = copy.deepcopy(cluster)
    break_it(broken)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        launcher_accepts(broken)


def test_nothing_runs_on_the_head(cluster: Cluster) -> None:
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    start = cluster["head_start_ray_commands"][-1]
    assert "--num-cpus=0" in start
    assert "--num-gpus=0" in start


def test_pools_grow_from_nothing_and_gpus_are_spot(cluster: Cluster) -> None:
    pools = {name: pool for name, pool in cluster["available_node_types"].items() if name != cluster["head_node_type"]}
    assert set(pools) == {"cpu", "gpu"}
    assert all(pool["min_workers"] == 0 and pool["max_workers"] > 0 for pool in pools.values())
    assert sum(pool["max_workers"] for pool in pools.values()) == cluster["max_workers"]
    assert pools["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in pools["cpu"]["node_config"]


def test_pools_carry_the_labels_that_jobs_ask_for(cluster: Cluster) -> None:
    pools = {name: pool.get("labels") for name, pool in cluster["available_node_types"].items()}
    assert pools == {"head": None, "cpu": {"pool": "cpu"}, "gpu": {"pool": "gpu"}}


def test_nothing_is_secret_or_open(cluster: Cluster) -> None:
    text = (ROOT / "cluster.yaml").read_text()
    assert not re.search(r"AKIA|aws_secret|aws_access|password|RAY_AUTH_TOKEN=", text, flags=re.IGNORECASE)
    assert all("IamInstanceProfile" in pool["node_config"] for pool in cluster["available_node_types"].values())
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
    for start in (cluster["head_start_ray_commands"][-1], cluster["worker_start_ray_commands"][-1]):
        assert "RAY_AUTH_MODE=token" in start


def test_versions_are_the_projects(cluster: Cluster) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ray_range = next(item for item in project["dependencies"] if item.startswith("ray["))
    images = [cluster["docker"]["image"], cluster["available_node_types"]["gpu"]["docker"]["worker_image"]]
    minors = {re.fullmatch(r"rayproject/ray:(\d+\.\d+)\.\d+-py311-(cpu|gpu)", image).group(1) for image in images}
    assert minors == {re.search(r">=(\d+\.\d+)", ray_range).group(1)}
    torch_pin = re.search(r"^TORCH_PIN \?= (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE).group(1)
    assert any(torch_pin in command for command in cluster["worker_setup_commands"])
