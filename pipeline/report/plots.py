"""Draws the report's plots with matplotlib, as SVG whose colours and fonts follow the page's theme."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

WIDTH_INCHES = 4.6
"""The width of a plot; it is narrow, so that text stays readable when a phone scales the plot down."""
NAME_CHARACTERS = 24

# These colours are placeholders in the SVG, which are then replaced by the page's CSS variables.
INK, MUTED, LINE = "#010203", "#020304", "#030405"
FIRST, SECOND, THIRD = "#040506", "#050607", "#060708"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    THIRD: "var(--third)",
}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "ytick.left": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """One plot. svg: markup that is safe in the page. description: what it shows, for readers who cannot see it.

    key: (colour variable, meaning) of every colour that needs an explanation.
    """

    title: str
    svg: str
    description: str
    caption: str = ""
    key: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Values of one colour, in order of position. colour: FIRST, SECOND or THIRD."""

    name: str
    values: Sequence[float]
    colour: str


def key_of(series: Sequence[Series]) -> tuple[tuple[str, str], ...]:
    """Return the key of a plot with several series."""
    return tuple((_VARIABLES[one.colour], one.name) for one in series) if len(series) > 1 else ()


def shortened(name: str, characters: int = NAME_CHARACTERS) -> str:
    """Return ``name`` on one line, cut where it is too long for an axis."""
    line = " ".join(name.split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def render(height_inches: float, draw: Callable[[Axes], None], *, salt: str) -> str:
    """Call ``draw`` on new axes and return the SVG. salt: makes the ids in the SVG differ from those of other plots."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        # Keep text as text: the browser draws it, with fonts that matplotlib need not have.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        sink = io.StringIO()
        FigureCanvasSVG(figure).print_svg(sink, metadata={"Date": None, "Creator": None})
    return _themed(sink.getvalue())


def _themed(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
    svg = re.sub(r"font: (\d[\d.]*)px [^;\"]*", r"font-size: \1px", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg


def bars_by_name(
    names: Sequence[str],
    values: Sequence[float],
    colours: Sequence[str],
    *,
    axis: str,
    salt: str,
    top: float | None = None,
) -> str:
    """Draw horizontal bars, the first one on top. top: end of the axis, None to fit the values."""

    def draw(axes: Axes) -> None:
        positions = np.arange(len(names))
        axes.barh(positions, values, color=list(colours), height=0.72)
        axes.set_yticks(positions, [shortened(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, top)
        _count_axis(axes, "x", axis, by_count=top is None)

    return render(0.5 + 0.185 * max(3, len(names)), draw, salt=salt)


def histogram(
    edges: np.ndarray, series: Sequence[Series], *, axis: str, counted: str, salt: str, octaves: bool = False
) -> str:
    """Draw stacked bars between ``edges`` (N + 1); every series has N values. octaves: the axis is logarithmic."""

    def draw(axes: Axes) -> None:
        below = np.zeros(len(edges) - 1)
        widths = np.diff(edges)
        for one in series:
            axes.bar(edges[:-1], one.values, widths, below, align="edge", color=one.colour, linewidth=0)
            below = below + np.asarray(one.values)
        if octaves:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
            axes.minorticks_off()
        axes.set_xlim(edges[0], edges[-1])
        axes.set_xlabel(axis)
        _count_axis(axes, "y", counted)

    return render(2.3, draw, salt=salt)


def heat_map(names: Sequence[str], shares: np.ndarray, *, salt: str) -> str:
    """Draw a square coloured by its share (0..1, NaN for none) for every pair; rows and columns are ``names``."""

    def draw(axes: Axes) -> None:
        count = len(names)
        largest = np.nanmax(shares) if np.isfinite(shares).any() else 1.0
        for row in range(count):
            for column in range(count):
                share = shares[row, column]
                if np.isfinite(share) and share > 0:
                    cell = mpl.patches.Rectangle((column, row), 0.94, 0.94, facecolor=FIRST, linewidth=0)
                    cell.set_alpha(0.06 + 0.94 * float(share / largest))
                    axes.add_patch(cell)
        axes.set_xlim(0, count)
        axes.set_ylim(count, 0)
        axes.set_aspect("equal")
        centres = np.arange(count) + 0.47
        axes.set_yticks(centres, [shortened(name, 16) for name in names])
        axes.set_xticks(centres, [shortened(name, 16) for name in names], rotation=90)
        axes.tick_params(bottom=False, labelcolor=INK)
        axes.spines["bottom"].set_visible(False)

    return render(4.2, draw, salt=salt)


def ranked_curve(series: Sequence[Series], *, axis: str, counted: str, salt: str) -> str:
    """Draw one falling curve per series over rank, with a logarithmic axis of counts."""

    def draw(axes: Axes) -> None:
        for one in series:
            axes.plot(np.arange(1, len(one.values) + 1), one.values, color=one.colour, linewidth=1.6)
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.set_xlim(1, None)
        axes.set_xlabel(axis)
        _count_axis(axes, "y", counted, by_count=False)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))

    return render(2.3, draw, salt=salt)


def columns(values: Sequence[float], colours: Sequence[str], *, axis: str, counted: str, salt: str) -> str:
    """Draw upright bars without names, in the given order."""

    def draw(axes: Axes) -> None:
        axes.bar(np.arange(len(values)), values, 0.86 if len(values) < 200 else 1.0, color=list(colours), linewidth=0)
        axes.set_xlim(-0.6, len(values) - 0.4)
        axes.set_xticks([])
        axes.set_xlabel(axis)
        _count_axis(axes, "y", counted, by_count=False)

    return render(2.3, draw, salt=salt)


def reliability(scores: Sequence[float], accuracies: Sequence[float], *, salt: str) -> str:
    """Draw accuracy over score, with the line that a calibrated model would follow."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        axes.plot(scores, accuracies, color=FIRST, linewidth=1.6, marker="o", markersize=3.5)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("score")
        _count_axis(axes, "y", "share that is right", by_count=False)

    return render(2.6, draw, salt=salt)


def _count_axis(axes: Axes, which: str, label: str, *, by_count: bool = True) -> None:
    """Label the axis of the values, with short numbers, and draw its grid."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_label_text(label)
    axes.grid(axis="x" if which == "x" else "y")
    axis.set_tick_params(labelcolor=MUTED)
    if by_count:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
        axis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def compact(value: float) -> str:
    """Return a number in about five characters: 950, 1.2k, 35M; small shares keep two digits."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"
