"""Writes the output of a labelling run without a model: drawn images, labels made from their true maps.

The labels are the truth with some segments named wrongly and with drawn scores, and they go through the commit of a
real run, so that every file has the form that a run gives it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from maskmill.pipeline.masks.segments import segment_geometry
from maskmill.pipeline.output.commit import CommitRequest, commit_shard
from maskmill.pipeline.output.folder import Output, part_name
from maskmill.pipeline.output.markers import marker_name
from maskmill.pipeline.output.schema import ERRORS, LABELS, SCHEMA_VERSION
from maskmill.pipeline.output.statistics import RunSums, class_stats_table, merge
from maskmill.pipeline.shapes.world import CLASSES
from maskmill.pipeline.shapes.write import ShapesSettings, write_shapes
from maskmill.pipeline.sources import ImageRecord, Shard, list_shards, read_shard

SHAPES_CLASSES: list[dict[str, Any]] = [
    {"name": entry.name, "seen": entry.seen, "colour": list(entry.colour)} for entry in CLASSES
]
WRONG_SHARE = 0.15
SHARD_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What the run is like.

    classes: entries of classes.json. class_ids: for each of the 56 classes of the drawings the id it has here.
    failed: every so manieth image is an error; 0 for none. blank: every label empty. finished: write the summary.
    halves: what lies left and right of the middle of the image are two segments, of one class if both halves show it.
    """

    images: int = 40
    source: str = "wds"
    classes: Sequence[dict[str, Any]] = field(default_factory=lambda: SHAPES_CLASSES)
    class_ids: Sequence[int] = tuple(range(56))
    segments: str = "semantic"
    failed: int = 0
    blank: bool = False
    halves: bool = False
    finished: bool = True
    seed: int = 3


def write_run(folder: Path, settings: RunSettings = RunSettings()) -> Path:
    """Draw images below ``folder``/images and write the run's output to ``folder``/out, which is returned."""
    images, out = folder / "images", folder / "out"
    shapes = ShapesSettings(
        images=settings.images, seed=settings.seed, file_format=settings.source, shard_size=SHARD_SIZE
    )
    write_shapes(str(images), shapes)
    source = images if settings.source == "folder" else f"{images}/*.{'tar' if settings.source == 'wds' else 'parquet'}"
    output = Output(str(out))
    shards = list_shards(str(source), shard_size=SHARD_SIZE)
    rng = np.random.default_rng(settings.seed)
    for shard in shards:
        _write_shard(output, shard, settings, rng)
    write_run_files(output, settings, str(source), len(shards))
    return out


def write_run_files(output: Output, settings: RunSettings, source: str, shards: int) -> None:
    """Write what a run writes beside its shards; the markers must be there."""
    classes = [{"class_id": i, **entry} for i, entry in enumerate(settings.classes)]
    output.write_json("classes.json", {"classes": classes})
    config = {
        "input": source,
        "output": output.uri,
        "preset": "bundled",
        "segments": settings.segments,
        "image_column": None,
        "max_image_bytes": 2**29,
        "shard_size": SHARD_SIZE,
        "min_score": 0.0,
    }
    run = {
        "run_id": "20260101T000000Z-0123abcd",
        "created_at": 1767225600.0,
        "schema_version": SCHEMA_VERSION,
        "versions": {"maskmill": "0.1.0", "ray": "2.60.0", "torch": "2.14.1"},
        "config": config,
        "fingerprint": {"weights": "0123456789abcdef", "clip": "fedcba9876543210"},
        "shards": shards,
        "earlier": [],
    }
    output.write_json("run.json", run)
    if settings.finished:
        write_summary(output, settings, shards)


def write_summary(output: Output, settings: RunSettings, shards: int) -> None:
    """Add up the markers into summary.json and class_stats.parquet."""
    names = output.names("stats", ".json")
    sums = merge(RunSums.from_dict(output.read_json(marker_name(name))["sums"]) for name in names)  # type: ignore[index]
    entries = settings.classes
    table = class_stats_table(sums, [e["name"] for e in entries], [e.get("seen") for e in entries])
    output.write_table("class_stats.parquet", table)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "run_id": "20260101T000000Z-0123abcd",
        "attempt": "20260101T000000Z-89abcdef",
        "attempt_images": sums.images,
        "started_at": 1767225600.0,
        "finished_at": 1767225600.0 + sums.images / 25,
        "attempt_seconds": sums.images / 25,
        "shards": shards,
        "errors": dict(sorted(sums.errors.items())),
        "coverage": sums.labelled_pixels / sums.pixels if sums.pixels else 0.0,
    }
    counts = ("images", "labelled", "failed", "segments", "withheld_segments", "withheld_pixels", "pixels")
    counts += ("labelled_pixels",)
    output.write_json("summary.json", {**summary, **{name: getattr(sums, name) for name in counts}})


def _write_shard(output: Output, shard: Shard, settings: RunSettings, rng: np.random.Generator) -> None:
    labels, errors = [], []
    records = list(read_shard(shard, with_segmentation=True))
    for record in records:
        common = {"image_id": record.image_id, "uri": record.uri, "shard": shard.shard_id, "row": record.row}
        if settings.failed and record.row % settings.failed == settings.failed - 1:
            kind = rng.choice(["truncated", "not_an_image", "too_many_pixels"])
            message = f"cannot be decoded: <b>{kind}</b>"
            errors.append({**common, "stage": "decode", "error_class": kind, "error_message": message, "attempts": 1})
        else:
            labels.append({**common, **label_columns(_predicted_map(record, settings, rng), settings, rng)})
    part = f"{shard.shard_id}-0"
    for kind, rows, schema in (("labels", labels, LABELS), ("errors", errors, ERRORS)):
        if rows:
            output.write_table(part_name("attempt", kind, part), pa.Table.from_pylist(rows, schema=schema))
    request = CommitRequest(
        shard=shard, attempt="attempt", rows=len(records), parts=[part], run_id="run", fingerprint="none"
    )
    commit_shard(output, request)


def _predicted_map(record: ImageRecord, settings: RunSettings, rng: np.random.Generator) -> np.ndarray:
    """The true map (H, W) uint16 with some classes exchanged; 65535 is unlabelled."""
    assert record.segmentation is not None
    with Image.open(io.BytesIO(record.segmentation)) as image:
        truth = np.asarray(image)
    if settings.blank:
        return np.full(truth.shape, 65535, np.uint16)
    predicted = np.full(truth.shape, 65535, np.uint16)
    for class_id in np.unique(truth):
        guess = int(rng.integers(0, 56)) if rng.random() < WRONG_SHARE else int(class_id)
        predicted[truth == class_id] = settings.class_ids[guess]
    predicted[:2] = 65535
    return predicted


def label_columns(predicted: np.ndarray, settings: RunSettings, rng: np.random.Generator) -> dict[str, Any]:
    """The columns of a labels row that follow from a map of class ids (H, W), and drawn quality figures."""
    segment_map = np.full(predicted.shape, 65535, np.uint16)
    is_right = np.arange(predicted.shape[1]) >= predicted.shape[1] // 2 if settings.halves else False
    np.copyto(segment_map, 2 * predicted + is_right, where=predicted != 65535)
    values = [int(value) for value in np.unique(segment_map) if value != 65535]
    class_ids = [value // 2 for value in values]
    geometry = segment_geometry(segment_map, values)
    count = len(class_ids)
    return {
        "width": predicted.shape[1],
        "height": predicted.shape[0],
        "coverage": sum(geometry.areas) / predicted.size,
        "class_ids": class_ids,
        "class_names": [settings.classes[class_id]["name"] for class_id in class_ids],
        "scores": rng.beta(6, 2, count).astype(np.float32).tolist(),
        "areas": geometry.areas,
        "boxes": geometry.boxes,
        "stability": rng.beta(12, 1, count).tolist(),
        "agreement": (rng.random(count) < 0.8).astype(float).tolist(),
        "objectness": rng.beta(9, 1, count).tolist(),
        "margin": rng.beta(2, 3, count).tolist(),
        "components": geometry.components,
        "withheld_segments": 0,
        "withheld_pixels": 0,
        "rles": geometry.rles,
    }


def read_labels(out: Path) -> list[dict[str, Any]]:
    """All rows of the labels, shard by shard in the order of a run's listing."""
    output = Output(str(out))
    names = output.names("stats", ".json")
    return [row for name in names for row in output.read_table(f"labels/{name}.parquet").to_pylist()]
