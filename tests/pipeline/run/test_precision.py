"""The precision a run gets where no one says: by its devices, and that of the run it continues."""

from __future__ import annotations

from typing import Any

import pytest

from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.run.resolve import model_spec


def dtype_of(recorded: dict[str, str] | None = None, **settings: Any) -> str:
    return model_spec(LabelConfig(input="in", output="out", classes="a,b", **settings), recorded).dtype


@pytest.mark.parametrize("settings", [{"device": "cpu"}, {"gpus": 0}, {"device": "cpu", "propose_gpus": 0.5}])
def test_float32_without_gpus(settings: dict[str, Any]) -> None:
    assert dtype_of(**settings) == "float32"


@pytest.mark.parametrize("settings", [{"gpus": 1}, {"propose_gpus": 0.5}, {"classify_gpus": 1}, {"device": "cuda"}])
def test_left_to_the_actors_with_gpus(settings: dict[str, Any]) -> None:
    assert dtype_of(**settings) == "auto"


def test_what_is_said_is_taken() -> None:
    assert dtype_of(dtype="float16", gpus=1) == "float16"
    assert dtype_of({"dtype": "float32"}, dtype="bfloat16") == "bfloat16"


@pytest.mark.parametrize("recorded", ["float32", "bfloat16", "auto"])
def test_a_run_goes_on_in_the_precision_it_began_with(recorded: str) -> None:
    """Outputs of versions whose default was float32 everywhere are continued on GPUs in float32."""
    assert dtype_of({"dtype": recorded}, propose_gpus=1) == recorded
    assert dtype_of({"dtype": recorded}, device="cpu") == recorded
