"""The contents of evaluation.json: every figure in percent, computed from sums with one division each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from maskmill.pipeline.evaluation import calibration, panoptic
from maskmill.pipeline.evaluation.boundary import f_measure
from maskmill.pipeline.evaluation.class_pixels import ClassPixels, harmonic_mean, mean
from maskmill.pipeline.evaluation.inventory import Inventory
from maskmill.pipeline.evaluation.overlaps import IOU_UNIT
from maskmill.pipeline.evaluation.protocol import Protocol
from maskmill.pipeline.evaluation.sums import COUNTS, SHARE_UNIT, Sums
from maskmill.pipeline.evaluation.unit import Comparison

SCHEMA_VERSION = 1
"""The version of evaluation.json; raised when a key changes its meaning."""

CONVENTIONS = (
    "All figures are percentages. IoU, accuracies and boundary figures are sums over the pixels of all images, divided "
    "once; names with image_ are means over images of a figure computed within each.",
    "A class absent from ground truth and prediction is left out of every mean. One absent from ground truth but "
    "predicted counts as IoU 0 in miou and in the means of its groups, and has no accuracy.",
    "A figure over no class at all is null.",
    "Pixels ignored in ground truth count nowhere. Unlabelled pixels are wrong for their true class and for no other.",
    "miou_harmonic is 2SU/(S+U) of miou_seen and miou_unseen.",
    "Images that lack a prediction or ground truth are left out and counted; without --allow-missing that is an error.",
    "Ground truth of another size than its prediction is brought to that size by nearest neighbour, and counted. Where "
    "its sides are swapped, that is an error unless --swapped-sides says what to do.",
    "Images that nothing tells from others of the same id are left out and counted like missing ones.",
    "Boundary F: a border pixel is found if one of its class lies within the tolerance; precision and recall are over "
    "the summed border pixels of a class, the mean is over classes.",
    "Recall and best IoU take the segments that were written, whatever their names, against the true segments.",
    "oracle_miou gives every written segment its best name: 100 - oracle_miou is lost to grouping, oracle_miou - miou "
    "to naming.",
    "Calibration (ECE, 15 bins): a segment is correct if most of its pixels are of its class; by pixels, each pixel "
    "has the score of its segment.",
)
PANOPTIC_CONVENTIONS = (
    "Panoptic quality: all segments of a stuff class (or of one that may be either) in an image are one; matches need "
    "an IoU over one half; without instances in the ground truth, those of things are 8-connected parts of its map.",
)


def figures(
    sums: Sums,
    protocol: Protocol,
    comparison: Comparison,
    coverage: Mapping[str, int],
    inventory: Inventory,
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the document: the figures first, then counts and bins, then what the figures were computed from.

    coverage: counts of what was left out. left_out: a sentence for each kind of image that was left out.
    """
    counts = {name: sums.count(name) for name in COUNTS if not name.endswith("_sum")}
    return {
        **_figures(sums, protocol, comparison),
        "counts": {**counts, **coverage, **_class_counts(sums, protocol)},
        "reliability": {
            "segments": calibration.reliability(sums.calibration_segments),
            "pixels": calibration.reliability(sums.calibration_pixels),
        },
        "protocol": {
            "name": protocol.name,
            "title": protocol.title,
            "setting": protocol.setting,
            "digest": protocol.digest(),
        },
        "conventions": [*CONVENTIONS, *(PANOPTIC_CONVENTIONS if comparison.with_panoptic else ())],
        "warnings": [*inventory.warnings, *left_out, *_resize_warning(sums)],
        "predictions": inventory.description,
        "fingerprint": comparison.fingerprint,
        "schema_version": SCHEMA_VERSION,
        "maskmill_version": version("maskmill"),
    }


def _figures(sums: Sums, protocol: Protocol, comparison: Comparison) -> dict[str, float | None]:
    return {
        **pixel_figures(sums.confusion, protocol),
        **_image_figures(sums),
        **_boundary_figures(sums, protocol, comparison.boundary_tolerance is not None),
        **_proposal_figures(sums, protocol),
        **_oracle_figures(sums, protocol),
        **_panoptic_figures(sums, protocol, comparison.with_panoptic),
        "ece_segments": _percent(calibration.expected_calibration_error(sums.calibration_segments)),
        "ece_pixels": _percent(calibration.expected_calibration_error(sums.calibration_pixels)),
    }


def pixel_figures(confusion: np.ndarray, protocol: Protocol) -> dict[str, float | None]:
    """Return the figures of a (C + 1, C + 1) confusion matrix, in percent."""
    pixels = ClassPixels.from_confusion(confusion)
    grouped = {f"miou_{name}": mean(pixels.iou, ids) for name, ids in protocol.groups().items()}
    accuracy = {f"mean_accuracy_{name}": mean(pixels.accuracy, ids) for name, ids in protocol.groups().items()}
    values = {
        "miou": mean(pixels.iou),
        "miou_seen": None,
        "miou_unseen": None,
        "miou_harmonic": harmonic_mean(grouped.get("miou_seen"), grouped.get("miou_unseen")),
        **grouped,
        "fwiou": pixels.frequency_weighted_iou(),
        "pixel_accuracy": pixels.pixel_accuracy(),
        "mean_accuracy": mean(pixels.accuracy),
        **accuracy,
    }
    return {name: _percent(value) for name, value in values.items()}


def _image_figures(sums: Sums) -> dict[str, float | None]:
    compared, with_boundary = sums.count("images_compared"), sums.count("images_with_boundary")
    return {
        "image_miou": _share(sums.count("image_iou_sum"), compared),
        "image_pixel_accuracy": _share(sums.count("image_accuracy_sum"), compared),
        "image_boundary_f": _share(sums.count("image_boundary_sum"), with_boundary),
    }


def _boundary_figures(sums: Sums, protocol: Protocol, is_measured: bool) -> dict[str, float | None]:
    f = f_measure(sums.boundary) if is_measured else np.full(len(protocol), np.nan)
    return _by_group("boundary_f", f, protocol)


def _proposal_figures(sums: Sums, protocol: Protocol) -> dict[str, float | None]:
    sets = {"": np.arange(len(protocol)), **{f"_{name}": ids for name, ids in protocol.groups().items()}}
    result = {}
    for suffix, ids in sets.items():
        count, best, *hits = (int(total) for total in sums.proposals[ids].sum(axis=0))
        result[f"recall_50{suffix}"] = _percent(hits[0] / count if count else None)
        result[f"recall_75{suffix}"] = _percent(hits[5] / count if count else None)
        result[f"average_recall{suffix}"] = _percent(sum(hits) / (len(hits) * count) if count else None)
        result[f"mean_best_iou{suffix}"] = _percent(best / IOU_UNIT / count if count else None)
    return result


def _oracle_figures(sums: Sums, protocol: Protocol) -> dict[str, float | None]:
    oracle = _by_group("oracle_miou", ClassPixels.from_confusion(sums.oracle).iou, protocol)
    best, real = oracle["oracle_miou"], _percent(mean(ClassPixels.from_confusion(sums.confusion).iou))
    is_known = best is not None and real is not None
    return {
        **oracle,
        "lost_to_grouping": 100 - best if best is not None else None,
        "lost_to_naming": best - real if is_known else None,  # type: ignore[operator]
    }


def _panoptic_figures(sums: Sums, protocol: Protocol, is_measured: bool) -> dict[str, float | None]:
    counts = sums.panoptic if is_measured else np.zeros_like(sums.panoptic)
    kinds = {
        "": np.arange(len(protocol)),
        "_things": np.flatnonzero(protocol.things),
        "_stuff": np.flatnonzero(~protocol.things),
        **{f"_{name}": ids for name, ids in protocol.groups().items()},
    }
    names = ("pq", "sq", "rq")
    by_class = dict(zip(names, panoptic.quality(counts), strict=True))
    return {f"{name}{suffix}": _percent(mean(by_class[name], ids)) for suffix, ids in kinds.items() for name in names}


def _by_group(name: str, values: np.ndarray, protocol: Protocol) -> dict[str, float | None]:
    grouped = {f"{name}_{group}": _percent(mean(values, ids)) for group, ids in protocol.groups().items()}
    return {name: _percent(mean(values)), **grouped}


def _class_counts(sums: Sums, protocol: Protocol) -> dict[str, int]:
    pixels = ClassPixels.from_confusion(sums.confusion)
    evaluated = protocol.evaluated
    return {
        "classes": int(evaluated.sum()),
        "classes_in_ground_truth": int((pixels.gt > 0).sum()),
        "classes_only_predicted": int(((pixels.gt == 0) & (pixels.pred > 0)).sum()),
        "classes_absent": int((evaluated & (pixels.gt == 0) & (pixels.pred == 0)).sum()),
    }


def _resize_warning(sums: Sums) -> list[str]:
    resized, images = sums.count("images_resized"), sums.count("images")
    return [f"the ground truth of {resized} of {images} images had another size and was resized"] if resized else []


def _share(total: int, count: int) -> float | None:
    return _percent(total / SHARE_UNIT / count if count else None)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
