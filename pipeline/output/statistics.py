"""Statistics of a run as mergeable sums: made per shard at its commit, added up with +, divided once at the end.

Percentiles come from fixed histograms, so any sharding gives the same figures; their resolution is one bin
(0.01 for scores, a factor 2^(1/4) for areas).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa

from maskmill.pipeline.output.schema import CLASS_STATS

SCORE_EDGES = np.linspace(0.0, 1.0, 101)
AREA_EDGES = 2.0 ** (np.arange(0, 4 * 40 + 1) / 4)
"""Quarter octaves from one pixel to 2^40 pixels."""
COVERAGE_EDGES = np.linspace(0.0, 1.0, 21)
CO_OCCURRING = 5
SUMMED_COLUMNS = ["width", "height", "coverage", "class_ids", "scores", "areas", "stability", "agreement"]
SUMMED_COLUMNS += ["withheld_segments", "withheld_pixels"]


@dataclass(slots=True)
class ClassSums:
    """Sums over the segments of one class. Histograms are sparse: bin number -> count."""

    images: int = 0
    segments: int = 0
    pixels: int = 0
    score_sum: float = 0.0
    agreement_sum: float = 0.0
    stability_sum: float = 0.0
    score_bins: Counter[int] = field(default_factory=Counter)
    area_bins: Counter[int] = field(default_factory=Counter)
    together: Counter[int] = field(default_factory=Counter)

    def __add__(self, other: ClassSums) -> ClassSums:
        return ClassSums(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; counters become lists of pairs."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {k: sorted(v.items()) if isinstance(v, Counter) else v for k, v in plain.items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ClassSums:
        """The inverse of :meth:`to_dict`."""
        sums = {key: Counter(dict(value)) if isinstance(value, list) else value for key, value in plain.items()}
        return cls(**cast(dict[str, Any], sums))


_NESTED = ("coverage_bins", "errors", "classes")


@dataclass(slots=True)
class RunSums:
    """Sums over the rows of one shard, or of many."""

    labelled: int = 0
    failed: int = 0
    pixels: int = 0
    labelled_pixels: int = 0
    segments: int = 0
    withheld_segments: int = 0
    withheld_pixels: int = 0
    coverage_bins: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    classes: dict[int, ClassSums] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """All input rows, labelled or failed."""
        return self.labelled + self.failed

    def __add__(self, other: RunSums) -> RunSums:
        classes = dict(self.classes)
        for class_id, sums in other.classes.items():
            classes[class_id] = classes[class_id] + sums if class_id in classes else sums
        plain = {n: getattr(self, n) + getattr(other, n) for n in self.__slots__ if n != "classes"}
        return RunSums(**plain, classes=classes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. The classes, the largest part, come last: a reader of counts can stop before them."""
        plain = {n: getattr(self, n) for n in self.__slots__ if n not in _NESTED}
        plain["coverage_bins"] = sorted(self.coverage_bins.items())
        classes = {str(class_id): sums.to_dict() for class_id, sums in sorted(self.classes.items())}
        return {**plain, "errors": dict(sorted(self.errors.items())), "classes": classes}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RunSums:
        """The inverse of :meth:`to_dict`; a missing "classes" reads as none."""
        classes = {int(k): ClassSums.from_dict(v) for k, v in plain.get("classes", {}).items()}
        counts = {n: plain[n] for n in cls.__slots__ if n not in _NESTED}
        coverage_bins = Counter(dict(plain["coverage_bins"]))
        return cls(**counts, coverage_bins=coverage_bins, errors=Counter(plain["errors"]), classes=classes)


def sums_of_tables(labels: pa.Table, errors: pa.Table) -> RunSums:
    """Add up one shard's tables (schemas LABELS and ERRORS)."""
    sums = RunSums(labelled=labels.num_rows, failed=errors.num_rows)
    for stage, error_class in zip(errors["stage"].to_pylist(), errors["error_class"].to_pylist(), strict=True):
        sums.errors[f"{stage}/{error_class}"] += 1
    for row in labels.select(SUMMED_COLUMNS).to_pylist():
        _add_image(sums, row)
    return sums


def _add_image(sums: RunSums, row: Mapping[str, Any]) -> None:
    sums.pixels += row["width"] * row["height"]
    sums.labelled_pixels += sum(row["areas"])
    sums.segments += len(row["class_ids"])
    sums.withheld_segments += row["withheld_segments"]
    sums.withheld_pixels += row["withheld_pixels"]
    sums.coverage_bins[int(_bins(row["coverage"], COVERAGE_EDGES))] += 1
    score_bins, area_bins = _bins(row["scores"], SCORE_EDGES), _bins(row["areas"], AREA_EDGES)
    present = set(row["class_ids"])
    for class_id in present:
        entry = sums.classes.setdefault(class_id, ClassSums())
        entry.images += 1
        entry.together.update(other for other in present if other != class_id)
    segments = zip(row["class_ids"], row["scores"], row["areas"], row["stability"], row["agreement"], strict=True)
    for position, (class_id, score, area, stability, agreement) in enumerate(segments):
        entry = sums.classes[class_id]
        entry.segments += 1
        entry.pixels += area
        entry.score_sum += score
        entry.stability_sum += stability
        entry.agreement_sum += agreement
        entry.score_bins[int(score_bins[position])] += 1
        entry.area_bins[int(area_bins[position])] += 1


def _bins(values: Any, edges: np.ndarray) -> np.ndarray:
    """The bin of each value; values outside the edges go to the first or last bin."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)


def merge(parts: Iterable[RunSums]) -> RunSums:
    """Add up any number of parts, in any order."""
    total = RunSums()
    for part in parts:
        total = total + part
    return total


def percentile(bins: Mapping[int, int], edges: np.ndarray, share: float) -> float | None:
    """The value below which ``share`` of the counted entries lie, interpolated inside its bin; None if empty."""
    total = sum(bins.values())
    if not total:
        return None
    wanted, seen = share * total, 0
    for position in sorted(bins):
        count = bins[position]
        if seen + count >= wanted:
            inside = (wanted - seen) / count
            return float(edges[position] + inside * (edges[position + 1] - edges[position]))
        seen += count
    return float(edges[max(bins) + 1])


def class_stats_table(sums: RunSums, names: list[str], seen: list[bool | None]) -> pa.Table:
    """One row per class of the vocabulary (schema CLASS_STATS), classes without a hit included."""
    rows = [_class_row(i, names, seen[i], sums.classes.get(i, ClassSums()), sums.pixels) for i in range(len(names))]
    return pa.Table.from_pylist(rows, schema=CLASS_STATS)


def _class_row(class_id: int, names: list[str], seen: bool | None, sums: ClassSums, pixels: int) -> dict[str, Any]:
    together = sorted(sums.together.items(), key=lambda item: (-item[1], item[0]))[:CO_OCCURRING]
    return {
        "class_id": class_id,
        "class_name": names[class_id],
        "seen": seen,
        "images": sums.images,
        "segments": sums.segments,
        "pixels": sums.pixels,
        "pixel_share": sums.pixels / pixels if pixels else 0.0,
        "score_mean": sums.score_sum / sums.segments if sums.segments else None,
        **{f"score_p{p}": percentile(sums.score_bins, SCORE_EDGES, p / 100) for p in (10, 50, 90)},
        **{f"area_p{p}": percentile(sums.area_bins, AREA_EDGES, p / 100) for p in (10, 50, 90)},
        "agreement_mean": sums.agreement_sum / sums.segments if sums.segments else None,
        "co_occurring": [names[other] for other, _ in together],
    }
