"""Values that are chosen by name, and the check of such a choice; imports neither PyTorch nor open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

Dtype = Literal["float32", "bfloat16", "float16", "auto"]
"""Precision of the networks; "auto" stands for the fastest one on the device (``maskmill.model.precision``)."""

Device = Literal["auto", "cpu", "cuda"]
"""Where networks run; "auto" is cuda where there is one."""


def require_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise ValueError naming the choices unless ``value`` is one of them."""
    if value not in choices:
        raise ValueError(f"Unknown {name} {value!r}. Choose from: {', '.join(map(str, choices))}")
