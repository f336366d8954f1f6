"""Masks and labels for images and any class names: ``from maskmill import Segmenter, Vocabulary``.

The folders ``model``, ``pipeline`` and ``jobs`` of the project lie here as links, so that all its imports begin with a
name that no other package has: ``maskmill.model``, ``maskmill.pipeline``, ``maskmill.jobs``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskmill.model import (
        UNLABELLED,
        ClassEntry,
        ModelSpec,
        Proposals,
        Segmentation,
        Segmenter,
        Vocabulary,
        load_segmenter,
    )

__all__ = [
    "UNLABELLED",
    "ClassEntry",
    "ModelSpec",
    "Proposals",
    "Segmentation",
    "Segmenter",
    "Vocabulary",
    "load_segmenter",
]


def __getattr__(name: str) -> Any:
    # The model is imported on first use: PyTorch takes seconds to import, and most of the program does without it.
    if name not in __all__:
        raise AttributeError(f"module 'maskmill' has no attribute {name!r}")
    from maskmill import model

    return getattr(model, name)
