"""Builds the report of a run: reads a bounded amount of data, and writes one self-contained HTML file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.output.folder import Output, errors_name
from maskmill.pipeline.report.cards import Card, make_cards
from maskmill.pipeline.report.charts import run_plots
from maskmill.pipeline.report.evaluation import EvaluationView, read_evaluation
from maskmill.pipeline.report.page import Page, render_page
from maskmill.pipeline.report.sample import SHARDS, Key, Sample, choose_gallery, choose_review, read_sample
from maskmill.pipeline.results.beside_run import check_beside_run
from maskmill.pipeline.results.reader import Results, open_results
from maskmill.pipeline.results.totals import Figures, read_figures
from maskmill.pipeline.sources.kinds import skipped_text
from maskmill.pipeline.storage.files import (
    StorageOptions,
    is_local,
    open_filesystem,
    public_uri,
    with_retries,
    write_atomic,
)
from maskmill.pipeline.storage.writable import check_writable

EXAMPLES_PER_ERROR = 3
PAGE_NAME = "index.html"
GENERATOR = b'<p class="brand">maskmill report</p>'
"""A line of every report, by which a report is distinguished from other pages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportSettings:
    """The settings of a report. to: folder of the page, by default OUTPUT/report. price_per_hour: of all machines."""

    to: str | None = None
    price_per_hour: float | None = None
    storage_options: StorageOptions = field(default_factory=dict)


def write_report(output_uri: str, settings: ReportSettings = ReportSettings()) -> str:
    """Write the report and return its address. Raises UsageError where there is no run."""
    results = open_results(output_uri, settings.storage_options)
    _check_place(results, settings)
    html = render_page(collect(results, settings.price_per_hour))
    folder = settings.to or f"{results.output.uri}/report"
    _write_page(folder.rstrip("/"), html.encode("utf-8"), settings.storage_options)
    return f"{folder.rstrip('/')}/{PAGE_NAME}"


def _check_place(results: Results, settings: ReportSettings) -> None:
    """Raise UsageError where the page would replace a file of other origin or be among images, or cannot be written."""
    folder = settings.to or f"{results.output.uri}/report"
    check_beside_run(results, folder, what="the report")
    check_writable(folder, settings.storage_options, what="the report")
    output = Output(folder, settings.storage_options)
    if output.exists(PAGE_NAME) and GENERATOR not in output.read_bytes(PAGE_NAME):
        raise UsageError(
            f"{public_uri(folder)}/{PAGE_NAME} is no report of maskmill and is not replaced; choose another place"
        )


def collect(results: Results, price_per_hour: float | None = None) -> Page:
    """Gather everything that the page shows."""
    figures = read_figures(results)
    sample = read_sample(results)
    gallery = choose_gallery(sample, results.run["run_id"])
    review = choose_review(sample, figures.class_rows)
    evaluation = read_evaluation(results.output, sample)
    reviewed = [(row["shard"], row["row"]) for rows in review.values() for row in rows]
    cards = _cards(results, sample, [*gallery, *reviewed, *_extremes(evaluation)])
    return Page(
        results=results,
        figures=figures,
        sampled_images=sample.images,
        plots=run_plots(figures, results.classes),
        cards=cards,
        gallery=gallery,
        review=review,
        evaluation=evaluation,
        errors=_errors(results, figures),
        skipped=skipped_text(results.run.get("skipped", {})),
        price_per_hour=price_per_hour,
    )


def _extremes(evaluation: EvaluationView | None) -> list[Key]:
    return [] if evaluation is None else [key for key, _ in (*evaluation.best, *evaluation.worst)]


def _cards(results: Results, sample: Sample, keys: Iterable[Key]) -> dict[Key, Card]:
    return make_cards(
        sample.rows(dict.fromkeys(keys)), results.finder(), results.colours, public_uri(results.output.uri)
    )


def _errors(results: Results, figures: Figures) -> list[dict[str, Any]]:
    """Return every kind of error with its count, and examples from the errors tables of the sampled shards."""
    examples: dict[str, list[dict[str, Any]]] = {}
    if figures.totals["failed"]:
        for shard_id in results.sample(SHARDS):
            if not results.output.exists(errors_name(shard_id)):
                continue
            for row in results.output.read_table(errors_name(shard_id)).to_pylist():
                kept = examples.setdefault(f"{row['stage']}/{row['error_class']}", [])
                if len(kept) < EXAMPLES_PER_ERROR:
                    kept.append(row)
    ranked = sorted(figures.totals["errors"].items(), key=lambda item: (-item[1], item[0]))
    return [{"kind": kind, "count": count, "examples": examples.get(kind, [])} for kind, count in ranked]


def _write_page(folder: str, html: bytes, storage_options: StorageOptions) -> None:
    fs, path = open_filesystem(f"{folder}/{PAGE_NAME}", storage_options)
    if is_local(fs):
        write_atomic(fs, path, html)
        return
    # Upload a file with the page's name: object stores derive the content type from the name, and a browser downloads
    # a page without the right type instead of showing it.
    with tempfile.TemporaryDirectory(prefix="maskmill-") as temporary:
        local = Path(temporary, PAGE_NAME)
        local.write_bytes(html)
        with_retries(lambda: fs.put_file(str(local), path))
