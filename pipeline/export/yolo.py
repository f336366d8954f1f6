"""Exports YOLO segmentation: one text file per image, one polygon per line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import yaml

from maskmill.pipeline.export.target import LabelledImage, Target, index_file
from maskmill.pipeline.masks.maps import segment_map
from maskmill.pipeline.masks.outlines import polygons

IMAGE_SUFFIXES = frozenset({".bmp", ".jpg", ".png", ".tif", ".webp"})
"""The kinds of files that trainers take for images; GIF is not among them."""


def export_yolo(target: Target, images: Iterator[LabelledImage]) -> None:
    """Write ``labels/<shard>/<name>.txt`` (class id and polygon, 0..1), ``data.yaml`` and ``index.csv``.

    Polygons follow the edges of the pixels and enclose exactly the area of the mask; a hole is connected by a line that
    is followed in both directions. Every connected part of a semantic segment is a separate line; the parts of an
    object (--segments query) are joined.
    """
    with index_file(target) as index:
        for image in images:
            name = f"labels/{image.stem}.txt"
            target.write(name, "".join(_lines(image.row, join=target.results.has_instances)).encode())
            index.add(name, image)
    names = {entry.class_id: entry.name for entry in target.results.classes}
    document = {"train": "images", "val": "images", "names": names}
    target.write("data.yaml", yaml.safe_dump(document, allow_unicode=True, sort_keys=False).encode())


def _lines(row: Mapping[str, Any], *, join: bool) -> Iterator[str]:
    positions = segment_map(row["rles"], row["height"], row["width"])
    for position, class_id in enumerate(row["class_ids"]):
        left, top, width, height = row["boxes"][position]
        inside = positions[top : top + height, left : left + width] == position
        for ring in polygons(inside, join=join):
            points = (ring + np.array([left, top])) / (row["width"], row["height"])
            yield f"{class_id} {' '.join(_decimals(points))}\n"


def _decimals(points: np.ndarray) -> Iterator[str]:
    # With seven digits a corner is exact to a hundredth of a pixel in an image 100,000 pixels wide.
    return (f"{value:.7f}".rstrip("0").rstrip(".") for value in points.ravel().tolist())
