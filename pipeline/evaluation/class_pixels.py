"""Shares of pixels by class, from confusion matrices, and the means over classes.

Conventions: a class absent from ground truth and prediction is left out of every mean. A class that is predicted but
absent from ground truth has IoU 0 and no accuracy. A mean over no class is None, not NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassPixels:
    """Pixels of every class, (C,) int64, without ignored pixels: on both sides, in ground truth, in the prediction."""

    intersection: np.ndarray
    gt: np.ndarray
    pred: np.ndarray

    @classmethod
    def from_confusion(cls, confusion: np.ndarray) -> ClassPixels:
        """Read a (C + 1, C + 1) matrix whose last row is ignored and whose last column is unlabelled."""
        compared = confusion[:-1]
        return cls(
            intersection=np.diagonal(compared).copy(), gt=compared.sum(axis=1), pred=compared[:, :-1].sum(axis=0)
        )

    @property
    def iou(self) -> np.ndarray:
        """(C,) float64 in 0..1; NaN for a class on neither side."""
        return _ratio(self.intersection, self.gt + self.pred - self.intersection)

    @property
    def accuracy(self) -> np.ndarray:
        """(C,) float64, share of a class's ground truth that is right; NaN where there is none."""
        return _ratio(self.intersection, self.gt)

    @property
    def precision(self) -> np.ndarray:
        """(C,) float64, share of a class's prediction that is right; NaN where there is none."""
        return _ratio(self.intersection, self.pred)

    def frequency_weighted_iou(self) -> float | None:
        """IoU weighted by ground truth pixels, in 0..1."""
        total = int(self.gt.sum())
        return float(np.nansum(self.iou * self.gt) / total) if total else None

    def pixel_accuracy(self) -> float | None:
        """Share of compared pixels that are right."""
        total = int(self.gt.sum())
        return int(self.intersection.sum()) / total if total else None


def mean(values: np.ndarray, class_ids: np.ndarray | None = None) -> float | None:
    """Return the mean of the values that are not NaN, over some classes or all of them; None if no value is left."""
    chosen = values if class_ids is None else values[class_ids]
    known = chosen[~np.isnan(chosen)]
    return float(known.mean()) if known.size else None


def row_means(values: np.ndarray) -> np.ndarray:
    """Return (R,) means of each row of (R, N) over the values that are not NaN; NaN if no value is left."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1)


def harmonic_mean(seen: float | None, unseen: float | None) -> float | None:
    """Return 2SU / (S + U); zero if both are zero, None if either is unknown."""
    if seen is None or unseen is None:
        return None
    return 2 * seen * unseen / (seen + unseen) if seen + unseen > 0 else 0.0


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)
