"""Reads the figures of a run: exact ones if the run has finished, else those of a bounded sample of its shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from maskmill.pipeline.output.folder import CLASS_STATS_FILE, SUMMARY_FILE
from maskmill.pipeline.output.markers import marker_bytes, read_sums
from maskmill.pipeline.output.statistics import RunSums, class_stats_table
from maskmill.pipeline.results.reader import Results

MOST_MARKERS = 200
MOST_MARKER_BYTES = 64 * 2**20
"""Limits on the markers read for distributions. With a thousand images each, these give far more than enough values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The figures of a run.

    finished: the summary that the run wrote at its end, None before. totals: images, labelled, failed, errors, pixels,
    labelled_pixels, segments, withheld_segments, withheld_pixels. class_rows: schema CLASS_STATS, in id order. exact:
    whether totals and class rows are of the whole run; else they are of the shards in ``sums``. sums: the sums of
    ``shards_read`` of the ``shards`` markers, for distributions.
    """

    finished: dict[str, Any] | None
    totals: dict[str, Any]
    class_rows: list[dict[str, Any]]
    exact: bool
    sums: RunSums
    shards_read: int
    shards: int

    @property
    def coverage(self) -> float:
        """Return the share of labelled pixels in all pixels of labelled images, 0..1."""
        return self.totals["labelled_pixels"] / self.totals["pixels"] if self.totals["pixels"] else 0.0


def read_figures(results: Results) -> Figures:
    """Read the summary, the table of classes and some markers."""
    summary = _current_summary(results)
    sums, shards_read = _sampled_sums(results)
    shards = len(results.shard_ids)
    if summary is not None:
        class_rows = results.output.read_table(CLASS_STATS_FILE).to_pylist()
        totals = summary
    else:
        seen = [entry.seen for entry in results.classes]
        class_rows = class_stats_table(sums, results.names, seen).to_pylist()
        totals = {name: getattr(sums, name) for name in (*_COUNTS, "errors")}
    return Figures(
        finished=summary,
        totals=totals,
        class_rows=class_rows,
        exact=summary is not None or shards_read == shards,
        sums=sums,
        shards_read=shards_read,
        shards=shards,
    )


_COUNTS = (
    "images",
    "labelled",
    "failed",
    "pixels",
    "labelled_pixels",
    "segments",
    "withheld_segments",
    "withheld_pixels",
)


def _current_summary(results: Results) -> dict[str, Any] | None:
    """Return the summary if it is of the shards that are there now; while a run goes on, it is not."""
    summary = results.output.read_json(SUMMARY_FILE)
    if summary is None or summary["run_id"] != results.run["run_id"]:
        return None
    return summary if summary["shards"] == len(results.shard_ids) else None


def _sampled_sums(results: Results) -> tuple[RunSums, int]:
    shard_ids = results.sample(MOST_MARKERS)
    if not shard_ids:
        return RunSums(), 0
    first_bytes = marker_bytes(results.output, shard_ids[0])
    wanted = min(len(shard_ids), max(1, MOST_MARKER_BYTES // first_bytes))
    shard_ids = results.sample(wanted)
    return read_sums(results.output, shard_ids), len(shard_ids)
