"""Integer confusion matrices, over all images and per image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskmill.pipeline.evaluation.overlaps import Overlaps, sum_by


def confusion_matrix(overlaps: Overlaps, classes: int, pred_class: np.ndarray | None = None) -> np.ndarray:
    """Return (C + 1, C + 1) int64 pixel counts, rows ground truth, columns prediction.

    The last row holds ignored pixels, the last column unlabelled ones. pred_class: (S,) classes to use instead of the
    predicted ones.
    """
    named = overlaps.pred_class if pred_class is None else pred_class
    rows = overlaps.class_of_gt(classes)
    columns = np.append(named, classes)[overlaps.pred]
    cells = sum_by(rows * (classes + 1) + columns, overlaps.pixels, (classes + 1) ** 2)
    return cells.reshape(classes + 1, classes + 1)


def oracle_confusion(overlaps: Overlaps, classes: int) -> np.ndarray:
    """Return the confusion matrix of the same segments, each with the best class it could have had.

    A segment gets the class of most of its compared pixels. What is then still wrong is lost to grouping; the
    difference from the real figure is lost to naming.
    """
    best = overlaps.majority_classes()
    return confusion_matrix(overlaps, classes, np.where(best >= 0, best, overlaps.pred_class))


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCounts:
    """Per-class pixels of every image: one entry for each class that an image has in ground truth or prediction.

    image, class_id, intersection, gt, pred: (N,) int64, sorted by image, then class; ignored pixels are not counted.
    compared, correct: (images,) int64 pixels.
    """

    image: np.ndarray
    class_id: np.ndarray
    intersection: np.ndarray
    gt: np.ndarray
    pred: np.ndarray
    compared: np.ndarray
    correct: np.ndarray

    def miou(self) -> np.ndarray:
        """Return (images,) float64, mean IoU over the classes of each image; NaN where no pixel is compared."""
        iou = self.intersection / (self.gt + self.pred - self.intersection)
        images = self.compared.size
        # bincount adds one by one in the given order, so the mean of an image does not depend on its shard.
        total = np.bincount(self.image, weights=iou, minlength=images)
        with np.errstate(invalid="ignore"):
            return total / np.bincount(self.image, minlength=images)

    def pixel_accuracy(self) -> np.ndarray:
        """Return (images,) float64, share of compared pixels that are right; NaN where there are none."""
        with np.errstate(invalid="ignore"):
            return self.correct / self.compared


def image_counts(overlaps: Overlaps, classes: int) -> ImageCounts:
    """Add up the pixels of every class in every image."""
    compared = overlaps.gt >= 0
    image, pixels = overlaps.image[compared], overlaps.pixels[compared]
    gt, pred = overlaps.class_of_gt(classes)[compared], overlaps.class_of_pred(classes)[compared]
    is_labelled, is_correct = pred < classes, gt == pred
    gt_key, pred_key = image * classes + gt, image * classes + pred
    keys = np.unique(np.concatenate([gt_key, pred_key[is_labelled]]))

    def total(key: np.ndarray, where: np.ndarray | slice) -> np.ndarray:
        return sum_by(np.searchsorted(keys, key[where]), pixels[where], keys.size)

    return ImageCounts(
        image=keys // classes,
        class_id=keys % classes,
        intersection=total(gt_key, is_correct),
        gt=total(gt_key, slice(None)),
        pred=total(pred_key, is_labelled),
        compared=sum_by(image, pixels, overlaps.images),
        correct=sum_by(image[is_correct], pixels[is_correct], overlaps.images),
    )
