"""Which plots the report has, and what they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.figures import Figures
from pipeline.report import plots
from pipeline.report.plots import FIRST, SECOND, THIRD, Plot, Series
from pipeline.results import RunClass
from pipeline.statistics import AREA_EDGES, COVERAGE_EDGES, SCORE_EDGES, ClassSums

MOST_BARS = 20
MOST_CO_OCCURRING = 12
LONG_TAIL_CLASSES = 40
"""With more classes than this the frequencies of all are drawn too, by rank."""
LEAST_SEGMENTS = 20
"""Agreement is a share; over fewer segments it says little."""


def run_plots(figures: Figures, classes: Sequence[RunClass]) -> list[Plot]:
    """The plots of a run, without those that have nothing to show."""
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


def class_colour(seen: bool | None) -> str:
    """The colour of the kind of class: seen, unseen, or nobody said."""
    return {True: FIRST, False: SECOND, None: FIRST}[seen]


def kinds_key(seen: Iterable[bool | None]) -> tuple[tuple[str, str], ...]:
    """The key of colours by kind of class, if there are two kinds."""
    kinds = set(seen)
    if kinds == {None} or not kinds:
        return ()
    return (("var(--first)", "seen in training"), ("var(--second)", "unseen"))


def _by_kind(figures: Figures, classes: Sequence[RunClass], bins: str, count: int) -> list[Series]:
    """A histogram over all classes, one series for each kind of class."""
    totals: dict[bool | None, Counter[int]] = {}
    for class_id, sums in figures.sums.classes.items():
        own: Counter[int] = getattr(sums, bins)
        totals.setdefault(classes[class_id].seen, Counter()).update(own)
    names = {True: "seen in training", False: "unseen", None: "all classes"}
    kinds = [kind for kind in (True, False, None) if kind in totals]
    colours = {True: FIRST, False: SECOND, None: FIRST if len(kinds) == 1 else THIRD}
    return [
        Series(name=names[kind], values=[totals[kind][i] for i in range(count)], colour=colours[kind])
        for kind in kinds
    ]


def _frequency(figures: Figures, classes: Sequence[RunClass]) -> Plot | None:
    rows = sorted((row for row in figures.class_rows if row["pixels"]), key=lambda row: -row["pixels"])
    if not rows:
        return None
    shown = rows[:MOST_BARS]
    svg = plots.bars_by_name(
        [row["class_name"] for row in shown],
        [100 * row["pixel_share"] for row in shown],
        [class_colour(classes[row["class_id"]].seen) for row in shown],
        axis="% of all pixels",
        salt="frequency",
    )
    first = ", ".join(f"{row['class_name']} {row['pixel_share']:.1%}" for row in shown[:3])
    return Plot(
        title="Most frequent classes",
        svg=svg,
        caption=f"The {len(shown)} largest of {len(rows):,} classes found." if len(rows) > len(shown) else "",
        description=f"Share of pixels by class. Largest: {first}.",
        key=kinds_key(entry.seen for entry in classes),
    )


def _long_tail(figures: Figures, classes: Sequence[RunClass]) -> Plot | None:
    if len(classes) <= LONG_TAIL_CLASSES:
        return None
    series = []
    for seen, name in ((True, "seen in training"), (False, "unseen"), (None, "all classes")):
        own = [row["images"] for row in figures.class_rows if classes[row["class_id"]].seen is seen and row["images"]]
        if own:
            colour = SECOND if seen is False else FIRST
            series.append(Series(name=name, values=sorted(own, reverse=True), colour=colour))
    if not series:
        return None
    found = sum(len(one.values) for one in series)
    return Plot(
        title="The long tail",
        svg=plots.ranked_curve(series, axis="class, by rank", counted="images with it", salt="tail"),
        caption=f"{found:,} of {len(classes):,} classes were found at all.",
        description=f"Number of images with a class, by the rank of the class. {found} classes have any.",
        key=plots.key_of(series),
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
        key=plots.key_of(series),
    )


def _areas(figures: Figures, classes: Sequence[RunClass]) -> Plot | None:
    series = _by_kind(figures, classes, "area_bins", len(AREA_EDGES) - 1)
    if not series:
        return None
    filled = np.flatnonzero(np.sum([one.values for one in series], axis=0))
    first, last = int(filled[0]), int(filled[-1]) + 1
    cut = [Series(name=one.name, values=one.values[first:last], colour=one.colour) for one in series]
    return Plot(
        title="Areas",
        svg=plots.histogram(
            AREA_EDGES[first : last + 1], cut, axis="pixels of a segment", counted="segments", salt="areas", octaves=True
        ),
        description="Histogram of segments by area. " + _quantiles(figures, "area_bins", AREA_EDGES),
        caption=_quantiles(figures, "area_bins", AREA_EDGES),
        key=plots.key_of(series),
    )


def _quantiles(figures: Figures, bins: str, edges: np.ndarray) -> str:
    from pipeline.statistics import percentile

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
            100 * COVERAGE_EDGES, series, axis="% of an image's pixels that are named", counted="images", salt="coverage"
        ),
        caption=f"Over all images, {figures.coverage:.1%} of the pixels are named.",
        description=f"Histogram of images by the share of their pixels that have a class; {figures.coverage:.1%} in all.",
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
        caption=f"Of the images with the class of the row, how many have that of the column; darkest: "
        f"{np.nanmax(shares):.0%}. The {len(found)} most frequent classes.",
        description=_strongest_pairs(found, names, shares),
    )


def _strongest_pairs(found: Sequence[tuple[int, ClassSums]], names: Sequence[str], shares: np.ndarray) -> str:
    order = np.argsort(-np.nan_to_num(shares, nan=-1.0), axis=None)[:3]
    pairs = [divmod(int(cell), len(found)) for cell in order]
    told = "; ".join(f"{names[column]} in {shares[row, column]:.0%} of images with {names[row]}" for row, column in pairs)
    return f"Which classes occur together. Most: {told}."


def _agreement(figures: Figures, classes: Sequence[RunClass]) -> Plot | None:
    rows = [row for row in figures.class_rows if row["segments"] >= LEAST_SEGMENTS]
    rows = sorted(rows, key=lambda row: (row["agreement_mean"], -row["segments"]))[:MOST_BARS]
    if not rows:
        return None
    segments = sum(row["segments"] for row in figures.class_rows)
    agreed = sum(row["agreement_mean"] * row["segments"] for row in figures.class_rows if row["segments"])
    return Plot(
        title="Branch agreement",
        svg=plots.bars_by_name(
            [row["class_name"] for row in rows],
            [100 * row["agreement_mean"] for row in rows],
            [class_colour(classes[row["class_id"]].seen) for row in rows],
            axis="% of segments that both branches name alike",
            salt="agreement",
            top=100,
        ),
        caption=f"{agreed / segments:.0%} of all segments. The classes with the least, of those with at least "
        f"{LEAST_SEGMENTS} segments.",
        description="Share of segments for which query branch and image branch give the same name, by class. Least: "
        + ", ".join(f"{row['class_name']} {row['agreement_mean']:.0%}" for row in rows[:3])
        + ".",
        key=kinds_key(entry.seen for entry in classes),
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


def evaluation_plots(per_class: Sequence[Mapping[str, Any]], bins: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """IoU of every class by rank, and scores against correctness. per_class: rows of per_class.parquet."""
    found = []
    rows = sorted((row for row in per_class if row["iou"] is not None), key=lambda row: -row["iou"])
    if rows:
        found.append(_iou(rows, [row["seen"] for row in per_class]))
    points = [(row["score_mean"], row["accuracy"]) for row in bins if row["count"]]
    if points:
        found.append(
            Plot(
                title="Can the scores be trusted?",
                svg=plots.reliability(*zip(*points, strict=True), salt="reliability"),
                caption="Segments by score: the share of them that is right. On the dashed line both are equal.",
                description="Reliability diagram: accuracy of segments by their score.",
            )
        )
    return found


def _iou(rows: Sequence[Mapping[str, Any]], seen: Sequence[bool | None]) -> Plot:
    ends = f"Best: {rows[0]['class_name']} {rows[0]['iou']:.1f}; worst: {rows[-1]['class_name']} {rows[-1]['iou']:.1f}."
    colours = [class_colour(row["seen"]) for row in rows]
    values = [row["iou"] for row in rows]
    if len(rows) <= MOST_BARS:
        names = [row["class_name"] for row in rows]
        svg = plots.bars_by_name(names, values, colours, axis="IoU, %", salt="iou", top=100)
    else:
        svg = plots.columns(values, colours, axis=f"{len(rows)} classes, best first", counted="IoU, %", salt="iou")
    return Plot(title="IoU by class", svg=svg, caption=ends, description=f"IoU of each class. {ends}", key=kinds_key(seen))
