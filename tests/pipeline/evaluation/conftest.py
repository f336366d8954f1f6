"""A protocol of three classes, a run that used it, and an evaluation in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskmill.pipeline.evaluation.config import EvaluationConfig
from maskmill.pipeline.evaluation.evaluate import Evaluation, evaluate
from tests.pipeline.evaluation.handmade import THREE, Run
from tests.pipeline.evaluation.here import evaluate_here


@pytest.fixture
def protocol_file(tmp_path: Path) -> Path:
    path = tmp_path / "three.json"
    path.write_text(json.dumps(THREE))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """An empty run whose vocabulary is the protocol's."""
    return Run(tmp_path / "run", THREE["classes"])


@pytest.fixture
def evaluated(protocol_file: Path) -> Callable[..., Evaluation]:
    """Evaluates in this process: evaluated(output, ground_truth, **settings)."""

    def call(output: Path, ground_truth: Path, **settings: Any) -> Evaluation:
        config = EvaluationConfig(
            output=str(output), ground_truth=str(ground_truth), **{"protocol": str(protocol_file), **settings}
        )
        return evaluate(config, evaluate_here)

    return call
