"""Exports COCO files: object or stuff annotations, panoptic annotations, and results of semantic segmentation."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from maskmill.pipeline.export.json_lists import JsonLists, encode, finite
from maskmill.pipeline.export.target import IndexFile, LabelledImage, Target, index_file
from maskmill.pipeline.masks.maps import value_map
from maskmill.pipeline.results.reader import Results

FIRST_CATEGORY = 1
"""Category ids are class ids plus this, because many readers take category 0 for background."""
QUALITY = ("stability", "agreement", "objectness", "margin")


def export_coco(target: Target, images: Iterator[LabelledImage]) -> None:
    """Write ``instances.json`` (--segments query) or ``stuff.json``: one annotation per segment, RLE masks.

    In addition to COCO's keys, an image has ``image_id`` (text), ``uri``, ``shard`` and ``row``, and an annotation has
    ``score`` and the quality figures of the labels.
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

    ``file_name`` of an annotation is relative to that folder. In runs with --segments query a class is a thing unless
    the class list says ``thing: false``, and all segments of one stuff class are joined to one, as the format requires.
    In other runs a segment is all of a class in an image, so every class is stuff. Pixels without a segment have id 0.
    """
    things = [target.results.has_instances and entry.thing is not False for entry in target.results.classes]
    categories = [
        {**entry, "isthing": int(thing)} for entry, thing in zip(_categories(target.results), things, strict=True)
    ]
    for number, part in target.parts(images):
        head = {**_head(target.results), "categories": categories}
        with (
            target.open(target.part_name("panoptic.json", number)) as stream,
            JsonLists(stream, head, ("images", "annotations")) as document,
        ):
            for image in part:
                document.add("images", _image_entry(image))
                segment_ids = _segment_ids(image.row["class_ids"], things)
                target.write(f"panoptic/{image.stem}.png", _segment_id_png(image.row, segment_ids))
                annotation = {
                    "image_id": image.number,
                    "file_name": f"{image.stem}.png",
                    "segments_info": _segments_info(image.row, segment_ids),
                }
                document.add("annotations", annotation)


def _segment_ids(class_ids: Sequence[int], things: Sequence[bool]) -> list[int]:
    """Return the segment id, from 1 on, of each segment of a row; segments of one stuff class share an id."""
    ids: list[int] = []
    of_stuff: dict[int, int] = {}
    following = 1
    for class_id in class_ids:
        segment_id = following if things[class_id] else of_stuff.setdefault(class_id, following)
        following += segment_id == following
        ids.append(segment_id)
    return ids


def _segments_info(row: Mapping[str, Any], segment_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return ``segments_info`` of a row; for segments with the same id, areas are added and boxes joined."""
    found: dict[int, dict[str, Any]] = {}
    for position, segment_id in enumerate(segment_ids):
        area, box = row["areas"][position], list(row["boxes"][position])
        earlier = found.get(segment_id)
        if earlier is not None:
            area, box = area + earlier["area"], _around(box, earlier["bbox"])
        category_id = row["class_ids"][position] + FIRST_CATEGORY
        found[segment_id] = {"id": segment_id, "category_id": category_id, "area": area, "bbox": box, "iscrowd": 0}
    return list(found.values())


def _around(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Return the smallest box (x, y, width, height) that holds both."""
    left, top = min(one[0], other[0]), min(one[1], other[1])
    right, bottom = max(one[0] + one[2], other[0] + other[2]), max(one[1] + one[3], other[1] + other[3])
    return [left, top, right - left, bottom - top]


def export_results(target: Target, images: Iterator[LabelledImage]) -> None:
    """Write ``sem_seg_predictions.json``: a list of file name, category id and RLE, as detectron2 writes it.

    Category ids are class ids. ``maskmill evaluate`` can read the file. ``index.csv`` says which image each file name
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
    """Yield the annotations of an image, without ids."""
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


def _segment_id_png(row: Mapping[str, Any], segment_ids: Sequence[int]) -> bytes:
    ids = value_map(row["rles"], segment_ids, 0, row["height"], row["width"])
    # Ids are at most the number of segments, which fits into 16 bits, so the blue channel is always zero.
    channels = np.stack([ids & 255, ids >> 8, np.zeros_like(ids)], axis=-1).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(channels).save(sink, "PNG")
    return sink.getvalue()
