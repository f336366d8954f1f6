"""Runs with the tiny model on the shared Ray, in this process or in others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.run.execute import run_plan
from maskmill.pipeline.run.plan import plan_run
from maskmill.pipeline.run.summary import RunResult
from tests.faults import held
from tests.faults.kill_matrix import Expected, Place, Setting
from tests.faults.tiny_model import CLASSES
from tests.shared_ray import SharedRay

Label = Callable[..., RunResult]


@pytest.fixture(scope="session")
def place(shared_ray: SharedRay) -> Place:
    """The shared Ray, for attempts in processes of their own."""
    return Place(cluster=shared_ray.cluster)


@pytest.fixture
def label(local_ray: None, tiny_model: None) -> Label:
    """``label(input, output, **settings)`` in this process, with the tiny model."""

    def run(source: str | Path, output: str | Path, **settings: Any) -> RunResult:
        config = LabelConfig(input=str(source), output=str(output), classes=",".join(CLASSES), **settings)
        return run_plan(plan_run(config), lambda progress: None)

    return run


@pytest.fixture(scope="session")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """A folder with 400 images, for runs in processes of their own."""
    folder = tmp_path_factory.mktemp("attempts")
    setting = Setting(folder=folder, images=held.IMAGES, shard=held.IMAGES // held.SHARDS)
    setting.prepare()
    return setting


@pytest.fixture(scope="session")
def expected(setting: Setting, place: Place) -> Expected:
    """What an undisturbed run makes of them."""
    return Expected(setting, place)
