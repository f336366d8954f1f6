"""The ZegFormer system in PyTorch and open_clip, usable alone: ``Segmenter.from_checkpoint(...)(images)``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.presets import ModelSpec, load_segmenter
    from model.proposals import UNLABELLED, Proposals, Segmentation
    from model.segmenter import Segmenter
    from model.vocabulary import ClassEntry, Vocabulary

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

_MODULES = {
    "UNLABELLED": "model.proposals",
    "ClassEntry": "model.vocabulary",
    "ModelSpec": "model.presets",
    "Proposals": "model.proposals",
    "Segmentation": "model.proposals",
    "Segmenter": "model.segmenter",
    "Vocabulary": "model.vocabulary",
    "load_segmenter": "model.presets",
}


def __getattr__(name: str) -> Any:
    # On first use only: PyTorch and open_clip take seconds to import, and the workers that read, decode and encode
    # images do without them.
    if name not in _MODULES:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
