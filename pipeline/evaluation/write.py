"""Writes the results of an evaluation: the figures, tables of classes and of confusions, and a summary in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from maskmill.pipeline.evaluation import panoptic
from maskmill.pipeline.evaluation.boundary import f_measure
from maskmill.pipeline.evaluation.class_pixels import ClassPixels
from maskmill.pipeline.evaluation.overlaps import IOU_UNIT
from maskmill.pipeline.evaluation.protocol import Protocol
from maskmill.pipeline.evaluation.sums import Sums
from maskmill.pipeline.output.folder import Output

FIGURES = "evaluation.json"
PER_CLASS = "per_class.parquet"
CONFUSION = "confusion.parquet"
SUMMARY = "summary.md"
TOP_CONFUSIONS = 10

PER_CLASS_SCHEMA = pa.schema(
    [
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("seen", pa.bool_()),
        pa.field("group", pa.string()),
        pa.field("thing", pa.bool_()),
        pa.field("gt_pixels", pa.int64(), nullable=False),
        pa.field("pred_pixels", pa.int64(), nullable=False),
        pa.field("intersection", pa.int64(), nullable=False),
        pa.field("iou", pa.float64()),
        pa.field("accuracy", pa.float64()),
        pa.field("precision", pa.float64()),
        pa.field("oracle_iou", pa.float64()),
        pa.field("boundary_f", pa.float64()),
        pa.field("true_segments", pa.int64(), nullable=False),
        pa.field("recall_50", pa.float64()),
        pa.field("mean_best_iou", pa.float64()),
        pa.field("pq", pa.float64()),
        pa.field("sq", pa.float64()),
        pa.field("rq", pa.float64()),
    ]
)
"""One row per class of the protocol, also absent ones. Figures are in percent, null where undefined or not measured."""

CONFUSION_SCHEMA = pa.schema(
    [
        pa.field("gt_class_id", pa.int32(), nullable=False),
        pa.field("gt_class_name", pa.string(), nullable=False),
        pa.field("pred_class_id", pa.int32()),
        pa.field("pred_class_name", pa.string()),
        pa.field("correct", pa.bool_(), nullable=False),
        pa.field("pixels", pa.int64(), nullable=False),
        pa.field("gt_share", pa.float64(), nullable=False),
    ]
)
"""One row per pair of classes that share pixels, most pixels first; unlabelled pixels have a null predicted class.

gt_share: percent of the true class's pixels.
"""

SUMMARY_ROWS = (
    ("mIoU", "miou"),
    ("mIoU, seen", "miou_seen"),
    ("mIoU, unseen", "miou_unseen"),
    ("mIoU, harmonic mean", "miou_harmonic"),
    ("frequency-weighted IoU", "fwiou"),
    ("pixel accuracy", "pixel_accuracy"),
    ("mean accuracy", "mean_accuracy"),
    ("mIoU, mean over images", "image_miou"),
    ("pixel accuracy, mean over images", "image_pixel_accuracy"),
    ("boundary F", "boundary_f"),
    ("PQ", "pq"),
    ("SQ", "sq"),
    ("RQ", "rq"),
    ("PQ, things", "pq_things"),
    ("PQ, stuff", "pq_stuff"),
    ("recall at IoU 0.5, any name", "recall_50"),
    ("recall at IoU 0.5 of seen classes, any name", "recall_50_seen"),
    ("recall at IoU 0.5 of unseen classes, any name", "recall_50_unseen"),
    ("mean best IoU, any name", "mean_best_iou"),
    ("oracle-class mIoU", "oracle_miou"),
    ("lost to grouping", "lost_to_grouping"),
    ("lost to naming", "lost_to_naming"),
    ("ECE over segments", "ece_segments"),
    ("ECE over pixels", "ece_pixels"),
)


def write_results(results: Output, document: Mapping[str, Any], sums: Sums, protocol: Protocol) -> None:
    """Write all files; evaluation.json comes last."""
    confusion = confusion_table(sums.confusion, protocol)
    results.write_table(PER_CLASS, per_class_table(sums, protocol))
    results.write_table(CONFUSION, confusion)
    results.write_bytes(SUMMARY, markdown(document, confusion).encode())
    results.write_json(FIGURES, document)


def per_class_table(sums: Sums, protocol: Protocol) -> pa.Table:
    """One row per class, schema PER_CLASS_SCHEMA."""
    pixels, oracle = ClassPixels.from_confusion(sums.confusion), ClassPixels.from_confusion(sums.oracle)
    segments = sums.proposals[:, 0]
    pq, sq, rq = panoptic.quality(sums.panoptic)
    with np.errstate(invalid="ignore"):
        recall = sums.proposals[:, 2] / segments
        best = sums.proposals[:, 1] / IOU_UNIT / segments
    shares = {
        "iou": pixels.iou,
        "accuracy": pixels.accuracy,
        "precision": pixels.precision,
        "oracle_iou": oracle.iou,
        "boundary_f": f_measure(sums.boundary),
        "recall_50": recall,
        "mean_best_iou": best,
        "pq": pq,
        "sq": sq,
        "rq": rq,
    }
    columns = {
        "class_id": pa.array(range(len(protocol)), pa.int32()),
        "class_name": pa.array(protocol.names),
        "seen": pa.array([entry.seen for entry in protocol.classes], pa.bool_()),
        "group": pa.array([entry.group for entry in protocol.classes], pa.string()),
        "thing": pa.array([entry.thing for entry in protocol.classes], pa.bool_()),
        "gt_pixels": pa.array(pixels.gt),
        "pred_pixels": pa.array(pixels.pred),
        "intersection": pa.array(pixels.intersection),
        "true_segments": pa.array(segments),
        **{name: pa.array(100 * values, from_pandas=True) for name, values in shares.items()},
    }
    return pa.Table.from_arrays([columns[field.name] for field in PER_CLASS_SCHEMA], schema=PER_CLASS_SCHEMA)


def confusion_table(confusion: np.ndarray, protocol: Protocol) -> pa.Table:
    """Return the cells that are not zero, schema CONFUSION_SCHEMA; ignored pixels are left out."""
    classes = len(protocol)
    compared = confusion[:-1]
    gt, pred = np.nonzero(compared)
    pixels = compared[gt, pred]
    order = np.lexsort((pred, gt, -pixels))
    gt, pred, pixels = gt[order], pred[order], pixels[order]
    names: list[str | None] = [*protocol.names, None]
    columns = [
        pa.array(gt, pa.int32()),
        pa.array([names[i] for i in gt], pa.string()),
        pa.array(pred, pa.int32(), mask=pred == classes),
        pa.array([names[i] for i in pred], pa.string()),
        pa.array(gt == pred),
        pa.array(pixels),
        pa.array(100 * pixels / compared.sum(axis=1)[gt]),
    ]
    return pa.Table.from_arrays(columns, schema=CONFUSION_SCHEMA)


def top_confusions(confusion: pa.Table, count: int = TOP_CONFUSIONS) -> list[dict[str, Any]]:
    """Return the confusions between two classes that cost the most pixels."""
    rows = confusion.to_pylist()
    return [row for row in rows if not row["correct"] and row["pred_class_id"] is not None][:count]


def markdown(document: Mapping[str, Any], confusion: pa.Table) -> str:
    """Return a summary in Markdown, to paste into a paper, a report or a pull request."""
    protocol, counts = document["protocol"], document["counts"]
    lines = [
        f"### {protocol['title']}, {protocol['setting'].upper()}",
        "",
        f"{counts['images']:,} images, {counts['classes_in_ground_truth']} of {counts['classes']} classes in ground "
        f"truth, {counts['pixels_compared']:,} pixels compared.",
        "",
        "| figure | % |",
        "|---|---:|",
    ]
    lines += [f"| {_cell(title)} | {document[key]:.2f} |" for title, key in summary_rows(document)]
    mistakes = top_confusions(confusion)
    if mistakes:
        lines += ["", "| true class | taken for | % of the true class | pixels |", "|---|---|---:|---:|"]
        lines += [
            f"| {_cell(row['gt_class_name'])} | {_cell(row['pred_class_name'])} | {row['gt_share']:.2f} "
            f"| {row['pixels']:,} |"
            for row in mistakes
        ]
    for title, texts in (("Warnings", document["warnings"]), ("Conventions", document["conventions"])):
        if texts:
            lines += ["", f"{title}:", "", *(f"- {text}" for text in texts)]
    return "\n".join(lines) + "\n"


def summary_rows(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return title and key of every defined figure, also of the mIoU of the protocol's groups."""
    fixed = {key for _, key in SUMMARY_ROWS}
    groups = [
        (f"mIoU, {key.removeprefix('miou_')}", key) for key in document if key.startswith("miou_") and key not in fixed
    ]
    rows = [*SUMMARY_ROWS[:4], *groups, *SUMMARY_ROWS[4:]]
    return [(title, key) for title, key in rows if document.get(key) is not None]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
