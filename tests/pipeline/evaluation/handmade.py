"""Runs and ground truth written by hand, through the real schema and the real RLE encoder."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pycocotools import mask as coco_mask

from maskmill.pipeline.output.schema import ERRORS, LABELS

UNLABELLED = 65535
Maps = Mapping[str, np.ndarray]

THREE = {
    "title": "three classes",
    "ignore_label": 255,
    "classes": [
        {"name": "sky", "seen": True, "thing": False, "raw_id": 10},
        {"name": "cat", "seen": True, "thing": True, "raw_id": 20},
        {"name": "dog", "seen": False, "thing": True, "raw_id": 30, "group": "pets"},
    ],
}
"""A protocol small enough to compute by hand."""


def png(labels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(labels).save(data, "PNG")
    return data.getvalue()


def wide(labels: np.ndarray) -> np.ndarray:
    """Return an 8-bit label map in 16 bits, with 255 turned into 65535."""
    return np.where(labels == 255, np.uint16(UNLABELLED), labels.astype(np.uint16))


def encode(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def segments_of(labels: np.ndarray) -> tuple[list[int], list[str]]:
    """Return one segment per class of a label map: class ids and RLEs."""
    class_ids = [int(value) for value in np.unique(labels) if value != UNLABELLED]
    return class_ids, [encode(labels == class_id) for class_id in class_ids]


def label_row(
    image_id: str, shape: tuple[int, int], class_ids: Sequence[int], rles: Sequence[str], scores: Sequence[float]
) -> dict[str, Any]:
    """Return a row of the labels schema; columns that evaluation does not read get any value of their type."""
    known = {
        "image_id": image_id,
        "height": shape[0],
        "width": shape[1],
        "class_ids": list(class_ids),
        "rles": list(rles),
        "scores": list(scores),
    }
    defaults = {field.name: [] if pa.types.is_list(field.type) else 0 for field in LABELS}
    defaults.update({field.name: "" for field in LABELS if pa.types.is_string(field.type)})
    return {**defaults, **known}


class Run:
    """The output of a labelling run, made of label maps: run.json, classes.json, labels, errors and markers."""

    def __init__(self, folder: Path, classes: Sequence[Mapping[str, Any]], segments: str = "semantic") -> None:
        self.folder = folder
        for name in ("labels", "errors", "stats"):
            (folder / name).mkdir(parents=True)
        entries = [{"class_id": i, **entry} for i, entry in enumerate(classes)]
        (folder / "classes.json").write_text(json.dumps({"classes": entries}))
        config = {"segments": segments, "preset": "bundled"}
        (folder / "run.json").write_text(json.dumps({"run_id": "r", "config": config, "shards": 0, "fingerprint": {}}))

    def add(self, shard: str, maps: Maps, scores: float = 0.5) -> None:
        """Commit a shard with one row per label map."""
        rows = []
        for image_id, labels in maps.items():
            class_ids, rles = segments_of(labels)
            rows.append(label_row(image_id, labels.shape, class_ids, rles, [scores] * len(rles)))
        self.add_rows(shard, rows)

    def add_rows(self, shard: str, rows: Sequence[Mapping[str, Any]], failed: Sequence[str] = ()) -> None:
        """Commit a shard with these rows; ``failed`` image ids go to its errors table."""
        pq.write_table(pa.Table.from_pylist(list(rows), schema=LABELS), self.folder / f"labels/{shard}.parquet")
        if failed:
            errors = [
                {field.name: 0 if pa.types.is_integer(field.type) else "x" for field in ERRORS} | {"image_id": name}
                for name in failed
            ]
            pq.write_table(pa.Table.from_pylist(errors, schema=ERRORS), self.folder / f"errors/{shard}.parquet")
        (self.folder / f"stats/{shard}.json").write_text("{}")


def write_folder(folder: Path, maps: Maps) -> Path:
    """Write label maps as PNG files."""
    for image_id, labels in maps.items():
        path = folder / f"{image_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(labels))
    return folder


def write_tar(path: Path, maps: Maps) -> Path:
    """Write images with x.seg.png beside them, as in a WebDataset shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for image_id, labels in maps.items():
            photo = io.BytesIO()
            Image.fromarray(np.zeros((*labels.shape, 3), np.uint8)).save(photo, "JPEG")
            for name, data in ((f"{image_id}.jpg", photo.getvalue()), (f"{image_id}.seg.png", png(labels))):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def panoptic_json(folder: Path, truth: Maps) -> Path:
    """Write panoptic annotations with one segment per class and image, and ids above 65535."""
    annotations = []
    for image_id, labels in truth.items():
        ids = np.where(labels == 255, 0, labels.astype(np.int64) * 70000 + 3)
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        path = folder / "panoptic" / f"{image_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(path)
        segments = [
            {"id": int(value) * 70000 + 3, "category_id": int(value) + 1} for value in np.unique(labels) if value != 255
        ]
        annotations.append({"file_name": f"{image_id}.png", "segments_info": segments})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(("sky", "cat", "dog"))]
    path = folder / "panoptic.json"
    path.write_text(json.dumps({"annotations": annotations, "categories": categories}))
    return path


def blobs(rng: np.random.Generator, classes: int, shape: tuple[int, int] = (20, 24)) -> np.ndarray:
    """Return a label map of a few rectangles."""
    labels = np.full(shape, rng.integers(classes), dtype=np.uint8)
    for _ in range(3):
        y, x = rng.integers(shape[0] - 4), rng.integers(shape[1] - 4)
        labels[y : y + rng.integers(3, 12), x : x + rng.integers(3, 12)] = rng.integers(classes)
    return labels


PAIRS = {f"{i:02d}": (blobs(np.random.default_rng(i), 3), blobs(np.random.default_rng(100 + i), 3)) for i in range(12)}
"""Ground truth and prediction of twelve images."""
