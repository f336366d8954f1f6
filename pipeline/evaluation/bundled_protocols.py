"""The protocols that come with the package, as plain data."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from maskmill.pipeline.errors import UsageError


def bundled_protocols() -> list[str]:
    """Return the names of the protocols that come with the package."""
    folder = files("maskmill.pipeline.evaluation") / "protocols"
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def bundled_protocol_data(name: str) -> dict[str, Any]:
    """Return the parsed file of a protocol that comes with the package.

    Raises UsageError for an unknown name, naming the known ones.
    """
    if name not in bundled_protocols():
        raise UsageError(f"unknown protocol {name!r}. Choose from: {', '.join(bundled_protocols())}")
    text = (files("maskmill.pipeline.evaluation") / "protocols" / f"{name}.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
