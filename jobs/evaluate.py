"""``maskmill evaluate``: compares labels with ground truth. The same command again counts only what is left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from maskmill.jobs.options import build_command
from maskmill.pipeline.evaluation.config import EvaluationConfig
from maskmill.pipeline.uris import public_uri

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.table import Table

    from maskmill.pipeline.evaluation.evaluate import Evaluation, Progress

CLASSES_SHOWN = 20


def run_evaluate(config: EvaluationConfig) -> int:
    """Evaluate, write and show the figures; return the exit code."""
    from functools import partial

    from rich.console import Console

    from maskmill.pipeline.evaluation.compare import compare
    from maskmill.pipeline.evaluation.distribute import evaluate_units
    from maskmill.pipeline.evaluation.evaluate import evaluate, other_results
    from maskmill.pipeline.interruption import signals_raised

    other = None if config.compare is None else other_results(config.compare, config.storage_option)
    on_ray = partial(evaluate_units, workers=config.workers, address=config.address)
    with signals_raised(), _progress_line() as on_progress:
        evaluation = evaluate(config, on_ray, on_progress)
    console = Console()
    show_evaluation(evaluation, console)
    if other is not None:
        console.print(comparison_table(compare(evaluation.results, other, evaluation.protocol, config.resamples)))
    return 0


evaluate = build_command(
    EvaluationConfig,
    run_evaluate,
    positional=("output", "ground_truth"),
    name="evaluate",
    help="Compare the labels in OUTPUT with GROUND_TRUTH and write figures to OUTPUT/evaluation; rerun to resume.",
)


@contextmanager
def _progress_line() -> Iterator[Callable[[Progress], None]]:
    """Show progress as a live line on a terminal, else the first and the last state as lines; on stderr."""
    from rich.console import Console
    from rich.text import Text

    from maskmill.jobs.live_line import live_line

    console = Console(stderr=True)
    if console.is_terminal:
        with live_line(console) as show_text:
            yield lambda progress: show_text(progress_text(progress))
        return

    def show(progress: Progress) -> None:
        if progress.images == 0 or progress.units_done == progress.units:
            console.print(Text(progress_text(progress)), soft_wrap=True)

    yield show


def progress_text(progress: Progress) -> str:
    """Return one line: units, images, rate."""
    rate = f"  {progress.images / progress.seconds:,.0f} images/s" if progress.images else ""
    return f"evaluating: {progress.units_done}/{progress.units} shards  {progress.images:,} images{rate}"


def show_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the figures, the classes with the most ground truth, warnings, and where the files are."""
    from rich.text import Text

    from maskmill.pipeline.evaluation.coverage import coverage_counts

    figures = evaluation.figures
    protocol = figures["protocol"]
    console.print(Text(f"{protocol['title']}, {protocol['setting'].upper()}"), soft_wrap=True)
    console.print(figures_table(figures))
    console.print(classes_table(evaluation))
    for warning in figures["warnings"]:
        console.print(Text(f"warning: {warning}"), soft_wrap=True)
    counts = figures["counts"]
    console.print(
        Text(
            f"{counts['images']:,} images compared, {coverage_counts(counts)}; "
            f"files: {public_uri(evaluation.results.uri)}"
        ),
        soft_wrap=True,
    )


def figures_table(figures: Mapping[str, Any]) -> Table:
    """Return every defined figure of the summary as a table."""
    from rich.table import Table
    from rich.text import Text

    from maskmill.pipeline.evaluation.write import summary_rows

    table = Table()
    table.add_column("figure")
    table.add_column("%", justify="right")
    for title, key in summary_rows(figures):
        table.add_row(Text(title), f"{figures[key]:.2f}")
    return table


def classes_table(evaluation: Evaluation) -> Table:
    """Return the figures of classes as a table, those with the most ground truth first."""
    from rich.table import Table
    from rich.text import Text

    from maskmill.pipeline.evaluation.write import per_class_table

    rows = per_class_table(evaluation.sums, evaluation.protocol).to_pylist()
    present = sorted((row for row in rows if row["gt_pixels"]), key=lambda row: (-row["gt_pixels"], row["class_id"]))
    table = Table(title=f"{len(present)} classes in ground truth", title_justify="left")
    table.add_column("class")
    table.add_column("seen")
    for name in ("IoU", "accuracy", "oracle IoU", "boundary F"):
        table.add_column(name, justify="right")
    for row in present[:CLASSES_SHOWN]:
        shares = (row["iou"], row["accuracy"], row["oracle_iou"], row["boundary_f"])
        seen = {True: "yes", False: "no", None: ""}[row["seen"]]
        table.add_row(Text(row["class_name"]), seen, *("" if share is None else f"{share:.1f}" for share in shares))
    if len(present) > CLASSES_SHOWN:
        table.caption = f"and {len(present) - CLASSES_SHOWN} more, see per_class.parquet"
    return table


def comparison_table(comparison: Mapping[str, Any]) -> Table:
    """Return the figures of two runs side by side as a table."""
    from rich.table import Table

    percent = round(100 * comparison["level"])
    table = Table(title=f"difference over {comparison['images']:,} images of both", title_justify="left")
    table.add_column("figure")
    for name in ("this", "other", "difference", f"{percent} % interval"):
        table.add_column(name, justify="right")
    for name, row in comparison["figures"].items():
        if row["value"] is not None:
            interval = f"{row['low']:+.2f} to {row['high']:+.2f}"
            table.add_row(name, f"{row['value']:.2f}", f"{row['other']:.2f}", f"{row['difference']:+.2f}", interval)
    return table
