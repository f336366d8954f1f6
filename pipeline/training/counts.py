"""Counts a method's right and wrong pixels on every test image, and computes figures with bootstrap intervals.

Legend for shapes: N images, C classes, R resamples of the images (the first is the images themselves).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from maskmill.model.vocabulary import Vocabulary
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.evaluation.class_pixels import ClassPixels, row_means

RESAMPLES = 1000
LEVEL = 0.95
"""The confidence level of the intervals."""
_SEED = 20220301


def pixel_counts(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return (3, C) int64 for every class: right pixels, pixels of the ground truth, pixels of the prediction.

    label, predicted: (H, W) class ids below C.
    """
    return np.stack(
        [np.bincount(values.ravel(), minlength=classes) for values in (label[label == predicted], label, predicted)]
    )


def resample_weights(images: int) -> np.ndarray:
    """Return (R, N): how often each image is drawn; the first row is ones.

    All methods get the same weights, so that their differences are paired.
    """
    rng = np.random.default_rng(_SEED)
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=RESAMPLES)
    return np.concatenate([np.ones((1, images)), drawn])


def figures(counts: np.ndarray, weights: np.ndarray, groups: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Return (R,) arrays in percent: mIoU of each group by its name, "harmonic" of seen and unseen, "pixel_accuracy".

    counts: (N, 3, C). weights: (R, N). groups: class ids by name, with "seen" and "unseen" among them. A group of which
    a resample shows no class is NaN there. Raises UsageError where all images together show no class of a group.
    """
    sums = (weights @ counts.reshape(len(counts), -1)).reshape(len(weights), *counts.shape[1:])
    right, gt, pred = sums[:, 0], sums[:, 1], sums[:, 2]
    iou = ClassPixels(intersection=right, gt=gt, pred=pred).iou
    result = {name: 100 * row_means(iou[:, list(ids)]) for name, ids in groups.items()}
    missing = [name for name, values in result.items() if np.isnan(values[0])]
    if missing:
        raise UsageError(f"the {len(counts)} images show no class of: {', '.join(missing)}; measure on more of them")
    seen, unseen = result["seen"], result["unseen"]
    result["harmonic"] = 2 * seen * unseen / np.maximum(seen + unseen, 1e-9)
    result["pixel_accuracy"] = 100 * right.sum(axis=1) / gt.sum(axis=1)
    return result


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the figure on the images themselves, and the ends of its interval, from (R,) resampled values."""
    low, high = np.nanquantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(values[0]), float(low), float(high)


def class_groups(vocabulary: Vocabulary, kinds: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Return the ids of seen classes, of unseen classes, and of the ``kinds`` of unseen classes."""
    flags = vocabulary.seen_flags
    seen = [class_id for class_id, flag in enumerate(flags) if flag]
    unseen = [class_id for class_id, flag in enumerate(flags) if not flag]
    return {"seen": seen, "unseen": unseen, **{name: list(ids) for name, ids in kinds.items()}}
