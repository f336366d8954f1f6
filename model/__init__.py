"""The ZegFormer system in PyTorch and open_clip, usable alone: ``Segmenter.from_checkpoint(...)(images)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskmill.model.proposals import UNLABELLED, Proposals, Segmentation
    from maskmill.model.segmenter import Segmenter, load_segmenter
    from maskmill.model.spec import ModelSpec
    from maskmill.model.vocabulary import ClassEntry, Vocabulary

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
    # On first use only: PyTorch and open_clip take seconds to import, and the workers that read, decode and encode
    # images do without them.
    if name not in __all__:
        raise AttributeError(f"module 'maskmill.model' has no attribute {name!r}")
    from maskmill.model import proposals, segmenter, spec, vocabulary

    homes = (spec, proposals, segmenter, vocabulary)
    return next(getattr(home, name) for home in homes if hasattr(home, name))
