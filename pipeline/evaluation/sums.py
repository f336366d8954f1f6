"""The sums of an evaluation, all integers: the parts of any sharding merge with + to the same sums, divided once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from maskmill.pipeline.evaluation import boundary, calibration, confusion, panoptic, proposals
from maskmill.pipeline.evaluation.overlaps import Overlaps

SHARE_UNIT = 2**32
"""Per-image shares are summed as integers in units of 2^-32, so that sums do not depend on their order."""

COUNTS = (
    "images",
    "images_compared",
    "images_resized",
    "pixels_compared",
    "pixels_ignored",
    "pixels_unlabelled",
    "segments",
    "segments_scored",
    "image_iou_sum",
    "image_accuracy_sum",
    "image_boundary_sum",
    "images_with_boundary",
)
"""The names of the counts. images: pairs of prediction and ground truth. images_compared: the pairs with a pixel that
is not ignored. pixels_unlabelled: compared pixels without a prediction. image_..._sum: sums of one share per image, in
SHARE_UNIT.
"""


@dataclass(kw_only=True, slots=True)
class Sums:
    """Sums over any set of images, all int64, for C classes.

    counts: (len(COUNTS),). confusion, oracle: (C + 1, C + 1). boundary, panoptic: (C, 4). proposals: (C, 12).
    calibration_segments, calibration_pixels: (15, 3). The modules that count them name their columns.
    """

    counts: np.ndarray
    confusion: np.ndarray
    oracle: np.ndarray
    boundary: np.ndarray
    panoptic: np.ndarray
    proposals: np.ndarray
    calibration_segments: np.ndarray
    calibration_pixels: np.ndarray

    @classmethod
    def zeros(cls, classes: int) -> Sums:
        """Return the sums over no image."""
        shapes = {
            "counts": (len(COUNTS),),
            "confusion": (classes + 1, classes + 1),
            "oracle": (classes + 1, classes + 1),
            "boundary": (classes, len(boundary.COLUMNS)),
            "panoptic": (classes, len(panoptic.COLUMNS)),
            "proposals": (classes, 2 + len(proposals.THRESHOLDS)),
            "calibration_segments": (calibration.BINS, len(calibration.COLUMNS)),
            "calibration_pixels": (calibration.BINS, len(calibration.COLUMNS)),
        }
        return cls(**{name: np.zeros(shape, dtype=np.int64) for name, shape in shapes.items()})

    def __iadd__(self, other: Sums) -> Sums:
        for name in self.__slots__:
            getattr(self, name)[...] += getattr(other, name)
        return self

    def __add__(self, other: Sums) -> Sums:
        return Sums(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    def count(self, name: str) -> int:
        """Return one of the counts by its name in COUNTS."""
        return int(self.counts[COUNTS.index(name)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: only the non-zero cells, since most of a large confusion matrix is zero."""
        plain = {}
        for name in self.__slots__:
            array = getattr(self, name)
            cells = np.flatnonzero(array)
            plain[name] = {"shape": list(array.shape), "cells": cells.tolist(), "values": array.flat[cells].tolist()}
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Sums:
        """The inverse of :meth:`to_dict`."""
        arrays = {}
        for field in fields(cls):
            entry = plain[field.name]
            array = np.zeros(entry["shape"], dtype=np.int64)
            array.flat[entry["cells"]] = entry["values"]
            arrays[field.name] = array
        return cls(**arrays)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageBorders:
    """Border figures of a shard's images; zeros and NaN where boundaries are not evaluated.

    counts: (C, 4) int64, summed over the images. f: (images,) float64 mean F over the classes of each image, NaN where
    there is no border.
    """

    counts: np.ndarray
    f: np.ndarray


def sums_of(
    overlaps: Overlaps,
    images: confusion.ImageCounts,
    borders: ImageBorders,
    *,
    resized: int,
    things: np.ndarray,
    with_panoptic: bool,
) -> Sums:
    """Return the sums of one shard. things: (C,) bool, used for panoptic quality only."""
    classes = things.size
    sums = Sums.zeros(classes)
    sums.confusion += confusion.confusion_matrix(overlaps, classes)
    sums.oracle += confusion.oracle_confusion(overlaps, classes)
    sums.boundary += borders.counts
    sums.proposals += proposals.proposal_counts(overlaps, classes)
    by_segment, by_pixel = calibration.calibration_counts(overlaps)
    sums.calibration_segments += by_segment
    sums.calibration_pixels += by_pixel
    if with_panoptic:
        sums.panoptic += panoptic.panoptic_counts(overlaps, things)
    counts = {
        "images": overlaps.images,
        "images_compared": int((images.compared > 0).sum()),
        "images_resized": resized,
        "pixels_compared": int(images.compared.sum()),
        "pixels_ignored": int(overlaps.pixels[overlaps.gt < 0].sum()),
        "pixels_unlabelled": int(overlaps.pixels[(overlaps.gt >= 0) & (overlaps.pred < 0)].sum()),
        "segments": overlaps.pred_class.size,
        "segments_scored": int((~np.isnan(overlaps.pred_score)).sum()),
        "image_iou_sum": _share_sum(images.miou()),
        "image_accuracy_sum": _share_sum(images.pixel_accuracy()),
        "image_boundary_sum": _share_sum(borders.f),
        "images_with_boundary": int((~np.isnan(borders.f)).sum()),
    }
    sums.counts += np.array([counts[name] for name in COUNTS])
    return sums


def _share_sum(shares: np.ndarray) -> int:
    known = shares[~np.isnan(shares)]
    return int(np.rint(known * SHARE_UNIT).astype(np.int64).sum())
