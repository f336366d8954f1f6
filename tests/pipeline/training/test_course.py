"""The course of a training: learning rate, order of the data, named configurations."""

from __future__ import annotations

import numpy as np
import pytest

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.training.loop import StepSampler
from maskmill.pipeline.training.recipes import load_config, recipe_names
from maskmill.pipeline.training.settings import LoopSettings, learning_rate_factor
from maskmill.pipeline.training.train import CONFIGS


@pytest.mark.parametrize("schedule", ["poly", "one-cycle"])
def test_learning_rate_rises_to_its_peak_and_falls(schedule: str) -> None:
    settings = LoopSettings(steps=100, batch_size=1, learning_rate=1.0, schedule=schedule, warmup=0.1)
    factors = [learning_rate_factor(settings, step) for step in range(100)]
    peak = int(np.argmax(factors))
    assert 8 <= peak <= 11
    assert max(factors) == pytest.approx(1.0, abs=0.1)
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert 0 < factors[-1] < 0.02


def test_every_epoch_holds_every_record_once() -> None:
    settings = LoopSettings(steps=9, batch_size=4, learning_rate=1.0)
    drawn = [key for batch in StepSampler(12, settings, 0) for key in batch]
    epochs = [[position for position, _ in drawn[start : start + 12]] for start in (0, 12, 24)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 3
    assert epochs[0] != epochs[1]
    assert len({seed for _, seed in drawn}) == 36
    assert list(StepSampler(12, settings, 5)) == list(StepSampler(12, settings, 0))[5:]


def test_recipes_are_valid_and_wrong_settings_are_named() -> None:
    for kind, model in CONFIGS.items():
        for name in recipe_names(kind):
            load_config(kind, name, model, ["clip=x"] if kind != "clip" else [])
    released = load_config("grouping", "zegformer-coco", CONFIGS["grouping"]).model_dump()
    assert released["losses"] == {
        "classification": 1.0,
        "mask": 20.0,
        "dice": 1.0,
        "no_object": 0.1,
        "mask_loss": "focal",
        "ignored_as_background": True,
        "per_pixel": 0.0,
    }
    for setting, message in (
        ("loop.stops=3", r"loop\.stops.*valid keys there:.*steps"),
        ("loop.schedule=linear", "one-cycle"),
        ("steps", "KEY=VALUE"),
        ("loop.steps.x=1", "single value"),
    ):
        with pytest.raises(UsageError, match=message):
            load_config("grouping", "bundled", CONFIGS["grouping"], ["clip=x", setting])
    with pytest.raises(UsageError, match="bundled"):
        load_config("grouping", "no-such-recipe", CONFIGS["grouping"])
