"""Every naming setting is a flag of ``maskmill label``, and the flag reaches the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskmill.jobs.options import resolve
from maskmill.model.naming.settings import setting_types
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.run.plan import plan_run
from tests.jobs.finished_runs import CLASSES, add_images, label, refused, told
from tests.model.naming.test_settings import OTHER

FLAGS = {name: ["--" + name.replace("_", "-"), str(value)] for name, value in OTHER.items()} | {
    "resize_masks_first": ["--resize-masks-first"],
    "query_segments": ["--segments", "query"],
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_images(tmp_path_factory.mktemp("images"), "a.png")


def test_every_setting_has_a_flag_with_its_help() -> None:
    text = " ".join(told("label", "--help").stdout.split())
    for words in FLAGS.values():
        assert f" {words[0]} " in text.replace("/--no-", " --no-"), words[0]
    assert FLAGS.keys() == setting_types().keys()


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_reaches_the_model_that_is_planned(name: str, images: Path, tmp_path: Path) -> None:
    arguments = [str(images), str(tmp_path / "out"), *FLAGS[name]]
    result = label(*arguments)
    assert result.exit_code == 0, result.output
    field = FLAGS[name][0].removeprefix("--").replace("-", "_")
    flags: dict[str, Any] = {field: True if len(FLAGS[name]) == 1 else FLAGS[name][1]}
    places = {"input": str(images), "output": str(tmp_path / "out"), "classes": CLASSES}
    config = resolve(LabelConfig, config_file=None, settings=(), flags=places | flags)
    assert getattr(plan_run(config).spec.naming, name) == OTHER[name]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--region", "box"], "--region: 'box' is not known. Choose from: crop, mask, cropmask, attend, pool"),
        (["--image-prompts", "x"], "--image-prompts: 'x' is not known. Choose from: release, single, imagenet_select"),
        (["--min-objectness", "1.5"], "--min-objectness: must be in 0..1, got '1.5'"),
        (["--calibration", "inf"], "--calibration: must be a finite number, got 'inf'"),
        (["--attend-side", "0"], "--attend-side: must be at least 1, got '0'"),
        (["--min-area", "-1"], "--min-area: "),
    ],
)
def test_a_wrong_value_is_refused_by_its_flag(flags: list[str], message: str, images: Path, tmp_path: Path) -> None:
    assert message in refused(label(images, tmp_path / "out", *flags))
