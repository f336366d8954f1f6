"""COCO: object or stuff annotations, panoptic annotations, and the results file of semantic segmentation."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from pipeline.export.json_lists import JsonLists, encode, finite
from pipeline.export.target import IndexFile, LabelledImage, Target, index_file
from pipeline.results import Results
from pipeline.segment_maps import value_map

FIRST_CATEGORY = 1
"""Category ids are class ids plus this: many readers take category 0 for background."""
QUALITY = ("stability", "agreement", "objectness", "margin")


def export_coco(target: Target, images: Iterator[LabelledImage]) -> None:
    """Write ``instances.json`` (--segments query) or ``stuff.json``: one annotation per segment, RLE masks.

    Beside COCO's own keys an image has ``image_id`` (text), ``uri``, ``shard`` and ``row``, and an annotation ``score``
    and the quality figures of the labels.
    """
    name = "instances.json" if target.results.has_instances else "stuff.json"
    annotation_id = 0
    for number, part in target.parts(images):
        with (
            target.open(target.part_name(name, number)) as stream,
            JsonLists(stream, _head(target.results), ("images", "annotations")) as document,
        ):
            for image in part:
                document.add("images", _image_entry(image))
                for segment in _annotations(image):
                    annotation_id += 1
                    document.add("annotations", {"id": annotation_id, **segment})


def export_panoptic(target: Target, images: Iterator[LabelledImage]) -> None:
    """Write ``panoptic.json`` and a PNG of segment ids (R + 256 G + 65536 B) per image below ``panoptic/``.

    ``file_name`` of an annotation is relative to that folder. Classes are things in runs with --segments query, else
    stuff. Pixels of no segment have id 0.
    """
    is_thing = int(target.results.has_instances)
    categories = [{**entry, "isthing": is_thing} for entry in _categories(target.results)]
    for number, part in target.parts(images):
        head = {**_head(target.results), "categories": categories}
        with (
            target.open(target.part_name("panoptic.json", number)) as stream,
            JsonLists(stream, head, ("images", "annotations")) as document,
        ):
            for image in part:
                document.add("images", _image_entry(image))
                target.write(f"panoptic/{image.stem}.png", _segment_id_png(image.row))
                annotation = {
                    "image_id": image.number,
                    "file_name": f"{image.stem}.png",
                    "segments_info": [
                        {"id": position, **{key: entry[key] for key in ("category_id", "area", "bbox", "iscrowd")}}
                        for position, entry in enumerate(_annotations(image), start=1)
                    ],
                }
                document.add("annotations", annotation)


def export_results(target: Target, images: Iterator[LabelledImage]) -> None:
    """Write ``sem_seg_predictions.json``: a list of file name, category id and RLE, as detectron2 writes it.

    Category ids are class ids. ``maskmill evaluate`` reads the file back. ``index.csv`` says which image each file name
    stands for.
    """
    with index_file(target) as index:
        for number, part in target.parts(images):
            _write_results(target, target.part_name("sem_seg_predictions.json", number), part, index)


def _write_results(target: Target, name: str, images: Iterator[LabelledImage], index: IndexFile) -> None:
    with target.open(name) as stream:
        separator = b"["
        for image in images:
            index.add(image.file_name, image)
            for class_id, rle in zip(image.row["class_ids"], image.row["rles"], strict=True):
                size = [image.row["height"], image.row["width"]]
                entry = {
                    "file_name": image.file_name,
                    "category_id": class_id,
                    "segmentation": {"size": size, "counts": rle},
                }
                stream.write(separator + b"\n" + encode(entry))
                separator = b","
        stream.write(b"\n]\n" if separator == b"," else b"[]\n")


def _head(results: Results) -> dict[str, Any]:
    return {
        "info": {
            "description": f"labels of maskmill run {results.run['run_id']}",
            "version": results.run["versions"]["maskmill"],
            "year": time.gmtime(results.run["created_at"]).tm_year,
            "date_created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(results.run["created_at"])),
        },
        "licenses": [],
        "categories": _categories(results),
    }


def _categories(results: Results) -> list[dict[str, Any]]:
    return [
        {
            "id": entry.class_id + FIRST_CATEGORY,
            "name": entry.name,
            "supercategory": {True: "seen", False: "unseen", None: ""}[entry.seen],
            "color": list(entry.colour),
        }
        for entry in results.classes
    ]


def _image_entry(image: LabelledImage) -> dict[str, Any]:
    row = image.row
    return {
        "id": image.number,
        "file_name": image.file_name,
        "width": row["width"],
        "height": row["height"],
        **{name: row[name] for name in ("image_id", "uri", "shard", "row")},
    }


def _annotations(image: LabelledImage) -> Iterator[dict[str, Any]]:
    """The annotations of an image, without ids."""
    row = image.row
    for position, class_id in enumerate(row["class_ids"]):
        yield {
            "image_id": image.number,
            "category_id": class_id + FIRST_CATEGORY,
            "segmentation": {"size": [row["height"], row["width"]], "counts": row["rles"][position]},
            "area": row["areas"][position],
            "bbox": row["boxes"][position],
            "iscrowd": 0,
            "score": finite(row["scores"][position]),
            **{name: finite(row[name][position]) for name in QUALITY},
        }


def _segment_id_png(row: Mapping[str, Any]) -> bytes:
    count = len(row["rles"])
    ids = value_map(row["rles"], range(1, count + 1), 0, row["height"], row["width"])
    # Positions fit into 16 bits, so that blue is never used.
    channels = np.stack([ids & 255, ids >> 8, np.zeros_like(ids)], axis=-1).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(channels).save(sink, "PNG")
    return sink.getvalue()
