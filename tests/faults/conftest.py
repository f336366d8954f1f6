"""One small cluster for the tests of this package, and runs with the tiny model, in this process or in others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import pipeline.flow
from pipeline.config import LabelConfig
from pipeline.plan import plan_run
from pipeline.run import RunResult, run_plan
from tests.faults.attempts import own_ray_folder
from tests.faults.kill_matrix import Expected, Place, Setting, cluster_of
from tests.faults.tiny_model import CLASSES, NoModel, TinyStage

Label = Callable[..., RunResult]


# Nothing here outlives a file: a Ray started after it would find a cluster that still runs, and join it.
@pytest.fixture(scope="module", autouse=True)
def ray_folder() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environment:
        for name in ("RAY_TMPDIR", "RAY_worker_niceness"):
            environment.setenv(name, "")  # so that what the folder's maker sets is undone
        yield own_ray_folder()


@pytest.fixture(scope="module")
def place(ray_folder: str) -> Iterator[Place]:
    """A cluster of one node with two CPUs."""
    with cluster_of(2) as cluster:
        yield Place(cluster=cluster)


@pytest.fixture(scope="module")
def joined(place: Place) -> Iterator[None]:
    """This process is on the cluster for the tests of a file."""
    assert place.cluster is not None
    ray.init(address=place.cluster.address, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def label(joined: None, monkeypatch: pytest.MonkeyPatch) -> Label:
    """``label(input, output, **settings)`` in this process, with the tiny model."""
    monkeypatch.setattr(pipeline.flow, "SegmentStage", TinyStage)
    monkeypatch.setattr(pipeline.flow, "StageModel", NoModel)

    def run(source: str | Path, output: str | Path, **settings: Any) -> RunResult:
        config = LabelConfig(input=str(source), output=str(output), classes=",".join(CLASSES), **settings)
        return run_plan(plan_run(config), lambda progress: None)

    return run


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """A folder with 400 images, for runs in processes of their own."""
    setting = Setting(folder=tmp_path_factory.mktemp("attempts"), images=400, shard=20)
    setting.prepare()
    return setting


@pytest.fixture(scope="module")
def expected(setting: Setting, place: Place) -> Expected:
    """What an undisturbed run makes of them."""
    return Expected(setting, place)
