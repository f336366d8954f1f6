"""The golden arrays: what the official release computed with small random weights (see tests/golden/README.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden_path() -> Path:
    """The directory of the golden files."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """``golden(name)``: the arrays of tests/golden/<name>.npz."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return dict(arrays)

    return load


@pytest.fixture(scope="session")
def relative_difference() -> Callable[[torch.Tensor, np.ndarray], float]:
    """Largest absolute difference of two arrays of one shape, relative to the range of the second."""

    def difference(actual: torch.Tensor, expected: np.ndarray) -> float:
        values = actual.detach().numpy()
        assert values.shape == expected.shape
        return float(np.abs(values - expected).max() / (expected.max() - expected.min()))

    return difference
