"""``--dtype auto``: one measurement a run, recorded, and kept by the same command again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_the_measured_precision_is_recorded_and_kept(label: Callable[..., Any], shapes: Path, tmp_path: Path) -> None:
    def recorded() -> dict[str, Any]:
        return json.loads((tmp_path / "run.json").read_text())["measured_dtype"]

    label(shapes / "wds" / "*.tar", tmp_path, dtype="auto", limit=1)
    first = recorded()
    assert set(first["seconds_per_image"]) == {"float32", "bfloat16"}
    assert first["dtype"] in first["seconds_per_image"]
    result = label(shapes / "wds" / "*.tar", tmp_path, dtype="auto", limit=2)
    assert result.summary["attempt_images"] > 0
    assert recorded() == first
