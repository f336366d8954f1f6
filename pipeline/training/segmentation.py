"""Batches of augmented images and label maps, for training of grouping and of the per-pixel baseline."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from maskmill.model.images.preprocess import PIXEL_MEAN, PIXEL_STD, normalise
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.training.augment import AugmentSettings, augment, is_recoloured
from maskmill.pipeline.training.classes import TrainingClasses
from maskmill.pipeline.training.loop import TrainingData
from maskmill.pipeline.training.record_store import RecordStore

IGNORED = -1
"""The value of training labels where the class is unknown or may not be learned."""


class SegmentationData(AugmentSettings):
    """How images become training batches."""

    images_with_unseen: Literal["skip", "ignore"] = Field(
        "ignore", description="ignore: their unseen pixels count as unlabelled (the release); skip: never used."
    )
    label_stride: int = Field(1, ge=1, description="Losses are computed on every n-th pixel of the label map.")


class SegmentationBatch(NamedTuple):
    """A batch of training views.

    images: (B, 3, S, S) float32, normalised. labels: (B, S / stride, S / stride) int64, seen classes or IGNORED.
    named: (B,) bool, False for recoloured images, whose labels separate segments but are no names.
    """

    images: Tensor
    labels: Tensor
    named: Tensor


class SegmentationDataset(TrainingData):
    """Views of the training images, indexed by (position, seed); labels are positions in ``classes.seen_ids``."""

    def __init__(self, records: RecordStore, classes: TrainingClasses, data: SegmentationData) -> None:
        self._records, self._classes, self._data = records, classes, data
        self._positions = np.arange(len(records))
        if data.images_with_unseen == "skip" and len(classes.seen_ids) < len(classes.vocabulary):
            usable = [not classes.holds_unseen(records.label(position)) for position in range(len(records))]
            self._positions = np.flatnonzero(usable)
        if len(self._positions) == 0:
            raise UsageError("every training image holds an unseen class; nothing is left to train on")

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, key: tuple[int, int]) -> SegmentationBatch:
        position, seed = key
        image, label = self._records.load(int(self._positions[position]))
        labels = self._classes.seen_labels(label)
        pixels, labels = augment(image, labels, self._data, IGNORED, seed)
        first = self._data.label_stride // 2
        strided = labels[first :: self._data.label_stride, first :: self._data.label_stride]
        return SegmentationBatch(
            images=normalise(np.ascontiguousarray(pixels), PIXEL_MEAN, PIXEL_STD),
            labels=torch.from_numpy(strided.copy()),
            named=torch.tensor(not is_recoloured(self._data, seed)),
        )


def collate(items: list[SegmentationBatch]) -> SegmentationBatch:
    """Stack items into one batch."""
    return SegmentationBatch(*(torch.stack(parts) for parts in zip(*items, strict=True)))
