from __future__ import annotations

import pytest

from maskmill.model.precision import fastest, measure_precisions
from maskmill.model.spec import ModelSpec, load_proposer


def test_float32_stays_unless_another_is_clearly_faster() -> None:
    assert fastest({"float32": 1.0, "bfloat16": 0.5}) == "bfloat16"
    assert fastest({"float32": 1.0, "bfloat16": 0.95}) == "float32"
    assert fastest({"float32": 1.0, "bfloat16": 0.6, "float16": 0.4}) == "float16"


def test_every_precision_of_a_cpu_is_measured() -> None:
    seconds = measure_precisions(ModelSpec(dtype="auto", device="cpu"))
    assert set(seconds) == {"float32", "bfloat16"}
    assert all(value > 0 for value in seconds.values())


def test_a_model_cannot_be_loaded_before_the_choice() -> None:
    with pytest.raises(ValueError, match="measure"):
        load_proposer(ModelSpec(dtype="auto"))
