"""The library's processors that work with PIL and numpy, under the names they have in each version."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

CLASSES = {
    "eomt": "EomtImageProcessor",
    "mask2former": "Mask2FormerImageProcessor",
    "maskformer": "MaskFormerImageProcessor",
    "oneformer": "OneFormerImageProcessor",
    "sam": "SamImageProcessor",
}


def has_plain_names(kind: str) -> bool:
    """Whether this version gives the plain name to the processor with PIL, as 5.3 does; later ones add "pil" to it."""
    return find_spec(f"transformers.models.{kind}.image_processing_pil_{kind}") is None


def pil_processor(kind: str) -> Any:
    """Return the class of the processor for models of ``kind``."""
    module, suffix = ("image_processing", "") if has_plain_names(kind) else ("image_processing_pil", "Pil")
    return getattr(import_module(f"transformers.models.{kind}.{module}_{kind}"), CLASSES[kind] + suffix)
