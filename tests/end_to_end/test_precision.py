"""``--dtype auto``: one measurement a run, recorded, and kept by the same command again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskmill.model.networks.instructions import has_bfloat16_instructions


@pytest.mark.slow
def test_the_measured_precision_is_recorded_and_kept(label: Callable[..., Any], shapes: Path, tmp_path: Path) -> None:
    def recorded() -> dict[str, Any]:
        return json.loads((tmp_path / "run.json").read_text())["measured_dtype"]

    label(shapes / "wds" / "*.tar", tmp_path, dtype="auto", limit=1)
    first = recorded()
    measured = {"float32", "bfloat16"} if has_bfloat16_instructions() in (True, None) else set()
    assert set(first["seconds_per_image"]) == measured
    assert first["dtype"] in measured or first["dtype"] == "float32"
    result = label(shapes / "wds" / "*.tar", tmp_path, dtype="auto", limit=2)
    assert result.summary["attempt_images"] > 0
    assert recorded() == first
