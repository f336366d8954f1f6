"""Compares two evaluations of the same images, with paired bootstrap intervals.

Each resample weighs every image by a Poisson(1) number drawn from the image's id, which is the same for both runs.
Therefore the images need no order, only one sum per resample and class is kept in memory, and the same two runs always
give the same intervals. (Hanley and MacGibbon, 2006: "Creating non-parametric bootstrap samples using Poisson
frequencies".)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from maskmill.pipeline.evaluation.class_pixels import row_means
from maskmill.pipeline.evaluation.protocol import EvaluationError, Protocol
from maskmill.pipeline.evaluation.unit import IMAGES
from maskmill.pipeline.evaluation.write import FIGURES
from maskmill.pipeline.output.folder import Output

COMPARISON = "comparison.json"
LEVEL = 0.95
COMPARED = ("miou", "miou_seen", "miou_unseen", "miou_harmonic", "pixel_accuracy", "mean_accuracy")
_SEED = 0


@dataclass(frozen=True, slots=True)
class _ClassSums:
    """Pixels of each class, (resamples + 1, C) float64 each; the first row counts every image once."""

    intersection: np.ndarray
    gt: np.ndarray
    pred: np.ndarray


def compare(results: Output, other: Output, protocol: Protocol, resamples: int) -> dict[str, Any]:
    """Compare the evaluation in ``results`` with another one and write comparison.json beside it.

    Returns its contents: for each figure both values, the difference (this one minus the other) and its 95 % interval,
    all in percent, over the images that both evaluated. Raises EvaluationError where the two cannot be compared.
    """
    document_here, document_there = _figures_file(results), _figures_file(other)
    theirs = document_there["protocol"]
    if theirs["digest"] != protocol.digest():
        raise EvaluationError(
            f"{other.uri} was evaluated with protocol {theirs['name']!r} ({theirs['setting']}), "
            f"not {protocol.name!r} ({protocol.setting}), or with another version of it"
        )
    own_ids, other_ids = _all_ids(results), _all_ids(other)
    common = np.intersect1d(own_ids, other_ids)
    if not common.size:
        raise EvaluationError(f"the two evaluations have no image in common ({results.uri}, {other.uri})")
    samples = [_resampled(output, common, len(protocol), resamples) for output in (results, other)]
    if not np.array_equal(samples[0].gt[0], samples[1].gt[0]):
        raise EvaluationError("the two evaluations had different ground truth for the same image ids")
    figures = [_figures(sample, protocol) for sample in samples]
    document = {
        "images": int(common.size),
        "images_only_here": int(own_ids.size - common.size),
        "images_only_there": int(other_ids.size - common.size),
        "resamples": resamples,
        "level": LEVEL,
        "method": "paired bootstrap over images (Poisson weights), percentile interval; figures in percent",
        "predictions": document_here["predictions"],
        "other_predictions": document_there["predictions"],
        "figures": {name: _difference(figures[0][name], figures[1][name]) for name in COMPARED},
    }
    results.write_json(COMPARISON, document)
    return document


def _figures_file(results: Output) -> dict[str, Any]:
    document = results.read_json(FIGURES)
    if document is None:
        raise EvaluationError(f"{results.uri} holds no evaluation: run `maskmill evaluate` on it first")
    return document


def _tables(output: Output) -> Iterator[pa.Table]:
    for name in output.names(IMAGES, ".parquet"):
        yield output.read_table(f"{IMAGES}/{name}.parquet")


def _hashes(table: pa.Table) -> np.ndarray:
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in table["image_id"].to_pylist())
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)


def _all_ids(output: Output) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.uint64), *(_hashes(table) for table in _tables(output))])


def _resampled(output: Output, images: np.ndarray, classes: int, resamples: int) -> _ClassSums:
    total = np.zeros((3 * classes, resamples + 1))
    for table in _tables(output):
        hashes = _hashes(table)
        chosen = np.flatnonzero(np.isin(hashes, images))
        weights = np.ones((chosen.size, resamples + 1))
        for row, image in enumerate(hashes[chosen]):
            generator = np.random.Generator(np.random.Philox(key=[int(image), _SEED]))
            weights[row, 1:] = generator.poisson(1.0, resamples)
        # The sums are whole numbers below 2^53, so floating point is exact and the order of the tables does not matter.
        total += _counts(table.take(chosen), classes).T @ weights
    return _ClassSums(*(part.T for part in np.split(total, 3)))


def _counts(table: pa.Table, classes: int) -> sparse.csr_matrix:
    """Return (images, 3 C): intersections, then ground truth pixels, then predicted pixels of every class."""
    class_ids = table["class_ids"].combine_chunks()
    rows = np.repeat(np.arange(table.num_rows), class_ids.value_lengths().to_numpy())
    columns = class_ids.flatten().to_numpy().astype(np.int64)
    names = ("intersections", "gt_pixels", "pred_pixels")
    values = [table[name].combine_chunks().flatten().to_numpy().astype(np.float64) for name in names]
    places = (np.tile(rows, 3), np.concatenate([columns + i * classes for i in range(3)]))
    return sparse.csr_matrix((np.concatenate(values), places), shape=(table.num_rows, 3 * classes))


def _figures(sums: _ClassSums, protocol: Protocol) -> Mapping[str, np.ndarray]:
    """Return (resamples + 1,) values of every compared figure in percent, NaN where undefined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = sums.intersection / (sums.gt + sums.pred - sums.intersection)
        accuracy = sums.intersection / sums.gt
        pixel_accuracy = sums.intersection.sum(axis=1) / sums.gt.sum(axis=1)
    groups = protocol.groups()
    nothing = np.zeros(0, dtype=np.int64)
    seen, unseen = (row_means(iou[:, groups.get(name, nothing)]) for name in ("seen", "unseen"))
    with np.errstate(invalid="ignore"):
        harmonic = np.where(seen + unseen == 0, 0.0, 2 * seen * unseen / (seen + unseen))
    values = (row_means(iou), seen, unseen, harmonic, pixel_accuracy, row_means(accuracy))
    return {name: 100 * value for name, value in zip(COMPARED, values, strict=True)}


def _difference(values: np.ndarray, other: np.ndarray) -> dict[str, float | None]:
    resampled = (values - other)[1:]
    known = resampled[~np.isnan(resampled)]
    if np.isnan(values[0]) or np.isnan(other[0]) or not known.size:
        return dict.fromkeys(("value", "other", "difference", "low", "high", "share_above"))
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {
        "value": float(values[0]),
        "other": float(other[0]),
        "difference": float(values[0] - other[0]),
        "low": float(low),
        "high": float(high),
        "share_above": float((known > 0).mean()),
    }
