"""A run over images of the test's own making: whatever lies in the source, half of each image of one class."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from maskmill.pipeline.decoding.decode import read_header
from maskmill.pipeline.masks.segments import SegmentGeometry, segment_geometry
from maskmill.pipeline.output.commit import CommitRequest, commit_shard
from maskmill.pipeline.output.folder import Output, part_name
from maskmill.pipeline.output.schema import LABELS
from maskmill.pipeline.sources import ImageRecord, Shard, list_shards, read_shard
from maskmill.pipeline.sources.shard import printable
from tests.pipeline.written_run import RunSettings, write_run_files

CLASSES = ("left", "right")


def picture(width: int = 12, height: int = 10, shade: int = 0) -> Image.Image:
    """An image no other shade has."""
    pixels = np.full((height, width, 3), shade, np.uint8)
    pixels[:, : width // 2] = (255, 0, shade)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """The image as a file."""
    sink = io.BytesIO()
    image.save(sink, file_format, **options)
    return sink.getvalue()


def label_files(source: str, out: Path, **config: Any) -> Path:
    """Write the run's output for the images that ``source`` names to ``out``. config: further settings of the run."""
    output = Output(str(out))
    for shard in list_shards(source):
        _commit(output, shard, config.get("max_pixels", 178_000_000))
    settings = RunSettings(classes=[{"name": name, "seen": True} for name in CLASSES])
    write_run_files(output, settings, printable(source), len(output.names("stats", ".json")))
    run = output.read_json("run.json") or {}
    output.write_json("run.json", {**run, "config": {**run["config"], **config}})
    return out


def _commit(output: Output, shard: Shard, max_pixels: int) -> None:
    rows = [{**_labels(record, max_pixels), "shard": shard.shard_id} for record in read_shard(shard)]
    output.write_table(part_name("a", "labels", "p"), pa.Table.from_pylist(rows, schema=LABELS))
    commit_shard(
        output,
        CommitRequest(shard=shard, attempt="a", rows=len(rows), parts=["p"], run_id="run", fingerprint="none"),
    )


@cache
def _halves(height: int, width: int) -> SegmentGeometry:
    labels = np.zeros((height, width), np.uint16)
    labels[:, width // 2 :] = 1
    return segment_geometry(labels, [0, 1])


def _labels(record: ImageRecord, max_pixels: int) -> dict[str, Any]:
    header = read_header(record.data or b"", max_pixels=max_pixels)
    geometry = _halves(header.height, header.width)
    figures = {key: [0.5, 0.5] for key in ("scores", "stability", "agreement", "objectness", "margin")}
    return {
        "image_id": record.image_id,
        "uri": record.uri,
        "row": record.row,
        "width": header.width,
        "height": header.height,
        "coverage": 1.0,
        "class_ids": [0, 1],
        "class_names": list(CLASSES),
        "areas": geometry.areas,
        "boxes": geometry.boxes,
        "components": geometry.components,
        "withheld_segments": 0,
        "withheld_pixels": 0,
        "rles": geometry.rles,
        **figures,
    }
