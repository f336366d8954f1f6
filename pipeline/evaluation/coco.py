"""Reads COCO JSON: annotations with RLEs, results files such as sem_seg_predictions.json, and panoptic annotations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.evaluation.index import without_suffix
from pipeline.evaluation.protocol import EvaluationError, Protocol, normalised_name
from pipeline.storage import StorageOptions, open_filesystem, read_bytes

_EXAMPLES = 8


@dataclass(slots=True)
class SegmentEntry:
    """The segments of one image as they stand in the file; lists are parallel, category ids are the file's own.

    texts: compressed RLE counts. scores: empty where the file has none.
    """

    image_id: str
    height: int
    width: int
    categories: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PanopticEntry:
    """One image of panoptic annotations: the PNG's name, and id, category id and crowd flag of every segment in it."""

    image_id: str
    file_name: str
    segment_ids: list[int]
    categories: list[int]
    crowd: list[bool]


def load_json(uri: str, storage_options: StorageOptions | None) -> Any:
    """Parse a JSON file. Raises EvaluationError where it is missing or damaged."""
    fs, path = open_filesystem(uri, storage_options)
    try:
        return json.loads(read_bytes(fs, path))
    except FileNotFoundError as error:
        raise EvaluationError(f"{uri} does not exist") from error
    except ValueError as error:
        raise EvaluationError(f"{uri} is no valid JSON: {error}") from error


def is_panoptic(data: Any) -> bool:
    """Whether parsed JSON holds panoptic annotations."""
    annotations = data.get("annotations") if isinstance(data, Mapping) else None
    return bool(annotations) and isinstance(annotations, list) and "segments_info" in annotations[0]


def segment_entries(data: Any, uri: str) -> list[SegmentEntry]:
    """Group the RLEs of a COCO annotation file (a mapping) or results file (a list) by image, in order of appearance.

    Raises EvaluationError for entries that lack an image, a category or an RLE, and for polygons.
    """
    annotations = data.get("annotations") if isinstance(data, Mapping) else data
    if not isinstance(annotations, list) or not all(isinstance(entry, Mapping) for entry in annotations):
        raise EvaluationError(f"{uri} is no COCO file: expected a list of results, or 'images' and 'annotations'")
    listed = data.get("images", []) if isinstance(data, Mapping) else []
    names = {image["id"]: _key(image) for image in listed}
    entries: dict[str, SegmentEntry] = {
        _key(image): SegmentEntry(_key(image), image["height"], image["width"])
        for image in listed
        if "height" in image and "width" in image
    }
    for number, annotation in enumerate(annotations):
        where = f"{uri}, entry {number}"
        image_id = names.get(annotation.get("image_id")) or _key(annotation, where)
        height, width, text = _rle(annotation.get("segmentation"), where)
        entry = entries.setdefault(image_id, SegmentEntry(image_id, height, width))
        if (entry.height, entry.width) != (height, width):
            raise EvaluationError(
                f"{where}: an RLE of {height}x{width} for image {image_id!r} of {entry.height}x{entry.width}"
            )
        entry.categories.append(_integer(annotation, "category_id", where))
        entry.texts.append(text)
        entry.crowd.append(bool(annotation.get("iscrowd", False)))
        if annotation.get("score") is not None:
            entry.scores.append(float(annotation["score"]))
    return list(entries.values())


def panoptic_entries(data: Mapping[str, Any], uri: str) -> list[PanopticEntry]:
    """The images of panoptic annotations. Raises EvaluationError for incomplete ones."""
    entries = []
    for number, annotation in enumerate(data["annotations"]):
        where = f"{uri}, annotation {number}"
        segments = annotation.get("segments_info")
        if not isinstance(segments, list) or not isinstance(annotation.get("file_name"), str):
            raise EvaluationError(f"{where} needs 'file_name' and 'segments_info'")
        entries.append(
            PanopticEntry(
                image_id=without_suffix(annotation["file_name"]),
                file_name=annotation["file_name"],
                segment_ids=[_integer(segment, "id", where) for segment in segments],
                categories=[_integer(segment, "category_id", where) for segment in segments],
                crowd=[bool(segment.get("iscrowd", False)) for segment in segments],
            )
        )
    return entries


def category_table(
    data: Any, used: Iterable[int], protocol: Protocol, table: np.ndarray, uri: str, *, by_name: bool
) -> dict[int, int]:
    """Map the file's category ids to evaluation ids (C: ignored or unlabelled).

    table: (65536,) evaluation ids of the numbers in use. by_name: go by the names in the file's "categories" where it
    lists them. Raises EvaluationError for categories in use that the protocol does not have.
    """
    used = sorted(set(used))
    listed = data.get("categories") if isinstance(data, Mapping) else None
    if listed and by_name:
        return _by_name(protocol, used, {category["id"]: category["name"] for category in listed}, table, uri)
    mapped = {category: int(table[category]) if 0 <= category < table.size else len(protocol) + 1 for category in used}
    unknown = [category for category, value in mapped.items() if value > len(protocol)]
    if unknown:
        raise EvaluationError(
            f"{uri} has category {', '.join(map(str, unknown[:_EXAMPLES]))}, not one of the ids 0..{len(protocol) - 1} "
            f"that protocol {protocol.name!r} compares ({protocol.setting}); a dataset's own ids are read with "
            "--ground-truth-ids raw or --prediction-ids raw"
        )
    return mapped


def _by_name(
    protocol: Protocol, used: Iterable[int], names: Mapping[int, str], table: np.ndarray, uri: str
) -> dict[int, int]:
    class_of = {normalised_name(name): i for i, name in enumerate(protocol.names)}
    mapped = {
        category: int(table[class_of[normalised_name(names[category])]])
        for category in used
        if normalised_name(names.get(category, "")) in class_of
    }
    unknown = [
        names.get(category, f"category {category}")
        for category in used
        if mapped.get(category, len(protocol) + 1) > len(protocol)
    ]
    if unknown:
        raise EvaluationError(
            f"{uri} uses categories that protocol {protocol.name!r} does not compare ({protocol.setting}): "
            f"{', '.join(map(repr, unknown[:_EXAMPLES]))}; with --ground-truth-ids raw those of ground truth go by "
            "id, and what is no class is ignored"
        )
    return mapped


def _key(entry: Mapping[str, Any], where: str = "an image") -> str:
    if isinstance(entry.get("file_name"), str):
        return without_suffix(entry["file_name"])
    image_id = entry.get("image_id", entry.get("id"))
    if isinstance(image_id, str):
        return image_id
    if isinstance(image_id, int):
        return f"{image_id:012d}"  # as COCO names its files
    raise EvaluationError(f"{where} has neither 'file_name' nor 'image_id'")


def _integer(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if not isinstance(value, int):
        raise EvaluationError(f"{where}: {key!r} must be an integer, got {value!r}")
    return value


def _rle(segmentation: Any, where: str) -> tuple[int, int, str]:
    """Height, width and compressed counts of one segmentation."""
    if not isinstance(segmentation, Mapping) or "counts" not in segmentation or "size" not in segmentation:
        raise EvaluationError(f"{where}: 'segmentation' must be an RLE with 'size' and 'counts'; polygons are not read")
    size, counts = segmentation["size"], segmentation["counts"]
    if len(size) != 2 or not all(isinstance(edge, int) and edge > 0 for edge in size):
        raise EvaluationError(f"{where}: an RLE's size must be [height, width], got {size!r}")
    height, width = size
    if isinstance(counts, list):
        if sum(counts) != height * width:
            raise EvaluationError(f"{where}: an RLE covers {sum(counts)} pixels of {height}x{width}")
        counts = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"].decode()
    return height, width, counts
