"""Runs of the pipeline in this process with the tiny model, on one Ray for the tests of a file."""

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
from tests.faults.tiny_model import CLASSES, NoModel, TinyStage

Label = Callable[..., RunResult]


@pytest.fixture(scope="session", autouse=True)
def ray_folder() -> str:
    return own_ray_folder()


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init("local", num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def label(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> Label:
    """``label(input, output, **settings)`` with the tiny model."""
    monkeypatch.setattr(pipeline.flow, "SegmentStage", TinyStage)
    monkeypatch.setattr(pipeline.flow, "StageModel", NoModel)

    def run(source: str | Path, output: str | Path, **settings: Any) -> RunResult:
        config = LabelConfig(input=str(source), output=str(output), classes=",".join(CLASSES), **settings)
        return run_plan(plan_run(config), lambda progress: None)

    return run
