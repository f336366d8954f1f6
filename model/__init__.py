"""The ZegFormer system in PyTorch and open_clip, usable alone: ``Segmenter.from_checkpoint(...)(images)``."""

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
