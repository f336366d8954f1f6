"""Chooses the plots of the report, with their titles, captions and data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from maskmill.pipeline.output.statistics import AREA_EDGES, COVERAGE_EDGES, SCORE_EDGES, ClassSums, percentile
from maskmill.pipeline.report import plots
from maskmill.pipeline.report.plots import FIRST, SECOND, THIRD, Plot, Series, key_of
from maskmill.pipeline.results.reader import RunClass
from maskmill.pipeline.results.totals import Figures

MOST_BARS = 20
MOST_CO_OCCURRING = 12
LONG_TAIL_CLASSES = 40
"""With more classes than this, the frequencies of all classes are drawn too, by rank."""
AREA_MARGIN_BINS = 7
LEAST_SEGMENTS = 20
"""The fewest segments of a class for which agreement is shown; a share of fewer segments says little."""


def run_plots(figures: Figures, classes: Sequence[RunClass]) -> list[Plot]:
    """Return the plots of a run, without those that have nothing to show."""
    found = [
        _frequency(figures, classes),
        _long_tail(figures, classes),
        _scores(figures, classes),
        _areas(figures, classes),
        _coverage(figures),
        _co_occurrence(figures, classes),
        _agreement(figures, classes),
        _errors(figures),
    ]
    return [plot for plot in found if plot is not None]


class Kinds:
    """Colours and names of the kinds of class: seen in training, unseen, or unknown."""

    _ORDER = (True, False, None)

    def __init__(self, seen: Iterable[bool | None]) -> None:
        present = set(seen)
        self.kinds = [kind for kind in self._ORDER if kind in present]
        self._is_known = bool(present - {None})

    def colour(self, seen: bool | None) -> str:
        """Return FIRST for seen, SECOND for unseen, and THIRD for unknown classes where other classes are known."""
        if not self._is_known:
            return FIRST
        return {True: FIRST, False: SECOND, None: THIRD}[seen]

    def name(self, seen: bool | None) -> str:
        """Return the kind in words."""
        return {True: "seen in training", False: "unseen", None: "not said" if self._is_known else "all classes"}[seen]

    def key(self) -> tuple[tuple[str, str], ...]:
        """Return the key of a plot in these colours."""
        return key_of([Series(name=self.name(kind), values=(), colour=self.colour(kind)) for kind in self.kinds])


def kinds_of(classes: Sequence[RunClass]) -> Kinds:
    """Return the kinds of class in a vocabulary."""
    return Kinds(entry.seen for entry in classes)


def _by_kind(figures: Figures, classes: Sequence[RunClass], bins: str, count: int) -> list[Series]:
    """Return a histogram over all classes, with one series for each kind of class."""
    totals: dict[bool | None, Counter[int]] = {}
    for class_id, sums in figures.sums.classes.items():
        counts: Counter[int] = getattr(sums, bins)
        totals.setdefault(classes[class_id].seen, Counter()).update(counts)
    kinds = kinds_of(classes)
    return [
        Series(name=kinds.name(kind), values=[totals[kind][i] for i in range(count)], colour=kinds.colour(kind))
        for kind in kinds.kinds
        if kind in totals
    ]


def _frequency(figures: Figures, classes: Sequence[RunClass]) -> Plot | None:
    rows = sorted((row for row in figures.class_rows if row["pixels"]), key=lambda row: -row["pixels"])
    if not rows:
        return None
    shown, kinds = rows[:MOST_BARS], kinds_of(classes)
    svg = plots.bars_by_name(
        [row["class_name"] for row in shown],
        [100 * row["pixel_share"] for row in shown],
        [kinds.colour(classes[row["class_id"]].seen) for row in shown],
        axis="% of all pixels",
        salt="frequency",
    )
    first = ", ".join(f"{row['class_name']} {row['pixel_share']:.1%}" for row in shown[:3])
    return Plot(
        title="Most frequent classes",
        svg=svg,
        caption=f"The {len(shown)} largest of {len(rows):,} classes found." if len(rows) > len(shown) else "",
        description=f"Share of pixels by class. Largest: {first}.",
        key=kinds.key(),
    )


def _long_tail(figures: Figures, classes: Sequence[RunClass]) -> Plot | None:
    if len(classes) <= LONG_TAIL_CLASSES:
        return None
    series, kinds = [], kinds_of(classes)
    for seen in kinds.kinds:
        images_per_class = [
            row["images"] for row in figures.class_rows if classes[row["class_id"]].seen is seen and row["images"]
        ]
        if images_per_class:
            values = sorted(images_per_class, reverse=True)
            series.append(Series(name=kinds.name(seen), values=values, colour=kinds.colour(seen)))
    if not series:
        return None
    found = sum(len(one.values) for one in series)
    return Plot(
        title="The long tail",
        svg=plots.ranked_curve(series, axis="class, by rank", counted="images with it", salt="tail"),
        caption=f"{found:,} of {len(classes):,} classes were found at all.",
        description=f"Number of images with a class, by the rank of the class. {found} classes have any.",
        key=key_of(series),
    )


def _scores(figures: Figures, classes: Sequence[RunClass]) -> Plot | None:
    series = _by_kind(figures, classes, "score_bins", len(SCORE_EDGES) - 1)
    if not series:
        return None
    folded = [
        Series(name=one.name, values=np.reshape(one.values, (-1, 4)).sum(axis=1).tolist(), colour=one.colour)
        for one in series
    ]
    return Plot(
        title="Scores",
        svg=plots.histogram(SCORE_EDGES[::4], folded, axis="class score", counted="segments", salt="scores"),
        description="Histogram of segments by class score. " + _quantiles(figures, "score_bins", SCORE_EDGES),
        caption=_quantiles(figures, "score_bins", SCORE_EDGES),
        key=key_of(series),
    )


def _areas(figures: Figures, classes: Sequence[RunClass]) -> Plot | None:
    series = _by_kind(figures, classes, "area_bins", len(AREA_EDGES) - 1)
    if not series:
        return None
    filled = np.flatnonzero(np.sum([one.values for one in series], axis=0))
    # Leave room on both sides: the axis of a few bins might have no power of ten on it, and therefore no number.
    first, last = (
        max(0, int(filled[0]) - AREA_MARGIN_BINS),
        min(len(AREA_EDGES) - 1, int(filled[-1]) + AREA_MARGIN_BINS),
    )
    cut = [Series(name=one.name, values=one.values[first:last], colour=one.colour) for one in series]
    return Plot(
        title="Areas",
        svg=plots.histogram(
            AREA_EDGES[first : last + 1],
            cut,
            axis="pixels of a segment",
            counted="segments",
            salt="areas",
            octaves=True,
        ),
        description="Histogram of segments by area. " + _quantiles(figures, "area_bins", AREA_EDGES),
        caption=_quantiles(figures, "area_bins", AREA_EDGES),
        key=key_of(series),
    )


def _quantiles(figures: Figures, bins: str, edges: np.ndarray) -> str:
    total: Counter[int] = Counter()
    for sums in figures.sums.classes.values():
        total.update(getattr(sums, bins))
    low, middle, high = (percentile(total, edges, share) for share in (0.1, 0.5, 0.9))
    if low is None or middle is None or high is None:
        return ""
    return f"Median {plots.compact(middle)}; eight in ten lie between {plots.compact(low)} and {plots.compact(high)}."


def _coverage(figures: Figures) -> Plot | None:
    bins = figures.sums.coverage_bins
    if not bins:
        return None
    values = [bins[i] for i in range(len(COVERAGE_EDGES) - 1)]
    series = [Series(name="images", values=values, colour=FIRST)]
    return Plot(
        title="Coverage",
        svg=plots.histogram(
            100 * COVERAGE_EDGES,
            series,
            axis="% of an image's pixels that are named",
            counted="images",
            salt="coverage",
        ),
        caption=f"Over all images, {figures.coverage:.1%} of the pixels are named.",
        description=f"Histogram of images by the share of pixels that have a class; {figures.coverage:.1%} in all.",
    )


def _co_occurrence(figures: Figures, classes: Sequence[RunClass]) -> Plot | None:
    found = sorted(figures.sums.classes.items(), key=lambda item: (-item[1].images, item[0]))[:MOST_CO_OCCURRING]
    if len(found) < 2:
        return None
    shares = np.full((len(found), len(found)), np.nan)
    for row, (_, sums) in enumerate(found):
        for column, (other, _) in enumerate(found):
            if row != column:
                shares[row, column] = sums.together[other] / sums.images
    names = [classes[class_id].name for class_id, _ in found]
    return Plot(
        title="Seen together",
        svg=plots.heat_map(names, shares, salt="together"),
        caption="Of the images with the class of the row, how many have that of the column: "
        f"{np.nanmax(shares):.0%} at most. The {len(found)} most frequent classes.",
        description=_strongest_pairs(found, names, shares),
    )


def _strongest_pairs(found: Sequence[tuple[int, ClassSums]], names: Sequence[str], shares: np.ndarray) -> str:
    order = np.argsort(-np.nan_to_num(shares, nan=-1.0), axis=None)[:3]
    pairs = [divmod(int(cell), len(found)) for cell in order]
    strongest = "; ".join(
        f"{names[column]} in {shares[row, column]:.0%} of images with {names[row]}" for row, column in pairs
    )
    return f"Which classes occur together. Most: {strongest}."


def _agreement(figures: Figures, classes: Sequence[RunClass]) -> Plot | None:
    rows = [row for row in figures.class_rows if row["segments"] >= LEAST_SEGMENTS]
    rows = sorted(rows, key=lambda row: (row["agreement_mean"], -row["segments"]))[:MOST_BARS]
    if not rows:
        return None
    kinds = kinds_of(classes)
    segments = sum(row["segments"] for row in figures.class_rows)
    agreed = sum(row["agreement_mean"] * row["segments"] for row in figures.class_rows if row["segments"])
    return Plot(
        title="Branch agreement",
        svg=plots.bars_by_name(
            [row["class_name"] for row in rows],
            [100 * row["agreement_mean"] for row in rows],
            [kinds.colour(classes[row["class_id"]].seen) for row in rows],
            axis="% of segments that both branches name alike",
            salt="agreement",
            top=100,
        ),
        caption=f"{agreed / segments:.0%} of all segments. The classes with the least, of those with at least "
        f"{LEAST_SEGMENTS} segments.",
        description="Share of segments for which query branch and image branch give the same name, by class. Least: "
        + ", ".join(f"{row['class_name']} {row['agreement_mean']:.0%}" for row in rows[:3])
        + ".",
        key=kinds.key(),
    )


def _errors(figures: Figures) -> Plot | None:
    errors: Mapping[str, int] = figures.totals["errors"]
    ranked = sorted(errors.items(), key=lambda item: (-item[1], item[0]))[:MOST_BARS]
    if not ranked:
        return None
    return Plot(
        title="Errors by stage",
        svg=plots.bars_by_name(
            [kind.replace("/", ": ") for kind, _ in ranked],
            [count for _, count in ranked],
            [THIRD] * len(ranked),
            axis="images",
            salt="errors",
        ),
        description="Failed images by stage and kind of error. "
        + ", ".join(f"{kind} {count}" for kind, count in ranked[:5])
        + ".",
    )
