"""Reads what the report shows of an evaluation, if there is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.report import plots
from maskmill.pipeline.report.charts import MOST_BARS, Kinds
from maskmill.pipeline.report.plots import Plot
from maskmill.pipeline.report.sample import Key, Sample

FOLDER = "evaluation"
MOST_CONFUSIONS = 12
BEST_AND_WORST = 4
MOST_IMAGE_TABLES = 10

HEADLINES = (
    ("mIoU", "miou"),
    ("mIoU, seen", "miou_seen"),
    ("mIoU, unseen", "miou_unseen"),
    ("Harmonic mean", "miou_harmonic"),
    ("Pixel accuracy", "pixel_accuracy"),
    ("PQ", "pq"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationView:
    """An evaluation for the page. figures: titles and percent. confusions: rows of confusion.parquet.

    iou_by_name: percent by class name. best, worst: sampled images and their mIoU (0..1), the extremes first.
    """

    title: str
    images: int
    figures: list[tuple[str, float]]
    confusions: list[dict[str, Any]]
    iou_by_name: dict[str, float]
    plots: list[Plot]
    best: list[tuple[Key, float]]
    worst: list[tuple[Key, float]]
    warnings: list[str]


def read_evaluation(output: Output, sample: Sample) -> EvaluationView | None:
    """Read OUTPUT/evaluation, and return None if it does not exist."""
    document = output.read_json(f"{FOLDER}/evaluation.json")
    if document is None:
        return None
    per_class = output.read_table(f"{FOLDER}/per_class.parquet").to_pylist()
    ranked = _ranked_images(output, sample)
    half = min(BEST_AND_WORST, len(ranked) // 2)
    return EvaluationView(
        title=f"{document['protocol']['title']}, {document['protocol']['setting'].upper()}",
        images=document["counts"]["images"],
        figures=[(title, document[key]) for title, key in HEADLINES if document.get(key) is not None],
        confusions=_confusions(output.read_table(f"{FOLDER}/confusion.parquet")),
        iou_by_name={row["class_name"]: row["iou"] for row in per_class if row["iou"] is not None},
        plots=_plots(per_class, document["reliability"]["segments"]),
        best=ranked[::-1][:half],
        worst=ranked[:half],
        warnings=document["warnings"],
    )


def _confusions(table: pa.Table) -> list[dict[str, Any]]:
    """Return the mistakes that cost the most pixels; the table is sorted by pixels."""
    is_mistake = pc.and_(pc.invert(table["correct"]), pc.is_valid(table["pred_class_id"]))
    return table.filter(is_mistake).slice(0, MOST_CONFUSIONS).to_pylist()


def _ranked_images(output: Output, sample: Sample) -> list[tuple[Key, float]]:
    """Return sampled images and their mIoU, worst first, from a bounded number of the evaluation's image tables.

    Ids that several images have are skipped, since the evaluation's tables do not say which of them is meant.
    """
    names = output.names(f"{FOLDER}/images", ".parquet")[:MOST_IMAGE_TABLES]
    miou: dict[str, float] = {}
    uses: Counter[str] = Counter()
    for name in names:
        table = output.read_table(f"{FOLDER}/images/{name}.parquet", columns=["image_id", "miou"])
        miou.update(zip(table["image_id"].to_pylist(), table["miou"].to_pylist(), strict=True))
        uses.update(table["image_id"].to_pylist())
    sampled = Counter(image_id for table in sample.tables.values() for image_id in table["image_id"].to_pylist())
    miou = {image_id: value for image_id, value in miou.items() if uses[image_id] == 1}
    found = [
        ((shard, row), value)
        for shard, table in sample.tables.items()
        for row, image_id in zip(table["row"].to_pylist(), table["image_id"].to_pylist(), strict=True)
        if sampled[image_id] == 1 and (value := _find(miou, image_id)) is not None
    ]
    return sorted(found, key=lambda item: (item[1], item[0]))


def _find(miou: Mapping[str, float | None], image_id: str) -> float | None:
    """Look up an image by its id, else by the id's last part, as the evaluation matches images."""
    return miou.get(image_id, miou.get(image_id.rpartition("/")[2]))


def _plots(per_class: Sequence[Mapping[str, Any]], bins: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Plot the IoU of every class by rank, and scores against correctness. per_class: rows of per_class.parquet."""
    found = []
    rows = sorted((row for row in per_class if row["iou"] is not None), key=lambda row: -row["iou"])
    if rows:
        found.append(_iou(rows))
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


def _iou(rows: Sequence[Mapping[str, Any]]) -> Plot:
    kinds = Kinds(row["seen"] for row in rows)
    ends = f"Best: {rows[0]['class_name']} {rows[0]['iou']:.1f}; worst: {rows[-1]['class_name']} {rows[-1]['iou']:.1f}."
    colours = [kinds.colour(row["seen"]) for row in rows]
    values = [row["iou"] for row in rows]
    if len(rows) <= MOST_BARS:
        names = [row["class_name"] for row in rows]
        svg = plots.bars_by_name(names, values, colours, axis="IoU, %", salt="iou", top=100)
    else:
        svg = plots.columns(values, colours, axis=f"{len(rows)} classes, best first", counted="IoU, %", salt="iou")
    return Plot(title="IoU by class", svg=svg, caption=ends, description=f"IoU of each class. {ends}", key=kinds.key())
