"""Reads COCO JSON: annotations with RLEs, results files such as sem_seg_predictions.json, and panoptic annotations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from maskmill.pipeline.evaluation.coco_files import (
    CategoryEntry,
    ImageEntry,
    PanopticFile,
    ResultsFile,
    SegmentAnnotation,
    SegmentFile,
    parse_coco,
)
from maskmill.pipeline.evaluation.namesakes import without_suffix
from maskmill.pipeline.evaluation.protocol import EvaluationError, Protocol, normalised_name
from maskmill.pipeline.storage.files import StorageOptions, open_filesystem, public_uri, read_bytes

_EXAMPLES = 8
ListedId = int | str | None


@dataclass(slots=True)
class SegmentEntry:
    """The segments of one image as the file has them; the lists are parallel, category ids are those of the file.

    image_id: the file name without its ending, else the id as text. listed_id, file_name: the id and the name that the
    file gives the image, None where it gives none. texts: compressed RLE counts. scores: empty where the file has none.
    """

    image_id: str
    height: int
    width: int
    listed_id: ListedId = None
    file_name: str = ""
    categories: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PanopticEntry:
    """One image of panoptic annotations: the PNG's name, and id, category id and crowd flag of every segment in it.

    listed_id, photo: the image's id, and its file name in the table of images; None and "" where there are none.
    """

    image_id: str
    file_name: str
    segment_ids: list[int]
    categories: list[int]
    crowd: list[bool]
    listed_id: ListedId = None
    photo: str = ""


def load_coco(uri: str, storage_options: StorageOptions | None) -> SegmentFile | PanopticFile:
    """Read and check a COCO file. Raises EvaluationError where it is missing, damaged or has wrong contents."""
    fs, path = open_filesystem(uri, storage_options)
    try:
        data = read_bytes(fs, path)
    except FileNotFoundError as error:
        raise EvaluationError(f"{public_uri(uri)} does not exist") from error
    return parse_coco(data, public_uri(uri))


def segment_entries(file: SegmentFile, uri: str) -> list[SegmentEntry]:
    """Group the RLEs of a file by image, in order of appearance; images are identified by id, else by file name.

    Raises EvaluationError for segments without an image and for segments of another size than their image.
    """
    entries: dict[int | str, SegmentEntry] = {}
    listed_id: ListedId
    listed: dict[int | str, ImageEntry] = {image.id: image for image in file.images}
    for image in file.images:
        if image.height is not None and image.width is not None:
            entries[image.id] = _entry(image.id, image.file_name, image.height, image.width)
    id_of = {image.file_name: image.id for image in file.images if image.file_name is not None}
    for number, annotation in enumerate(file.annotations):
        where = f"{uri}: {'' if isinstance(file, ResultsFile) else 'annotations'}[{number}]"
        height, width, text = annotation.segmentation
        if listed:
            image = listed[_listed_image(annotation, id_of, where)]
            key, listed_id, file_name = image.id, image.id, image.file_name
        else:
            key, listed_id, file_name = _own_image(annotation, where)
        entry = entries.get(key)
        if entry is None:
            entry = entries[key] = _entry(listed_id, file_name, height, width)
        if (entry.height, entry.width) != (height, width):
            raise EvaluationError(
                f"{where}.segmentation: an RLE of {height}x{width} for image {entry.image_id!r} of "
                f"{entry.height}x{entry.width}"
            )
        entry.categories.append(annotation.category_id)
        entry.texts.append(text)
        entry.crowd.append(annotation.iscrowd)
        if annotation.score is not None:
            entry.scores.append(annotation.score)
    return list(entries.values())


def _entry(listed_id: ListedId, file_name: str | None, height: int, width: int) -> SegmentEntry:
    name = id_key(listed_id) if file_name is None else without_suffix(file_name)
    return SegmentEntry(name, height, width, listed_id, file_name or "")


def id_key(listed_id: ListedId) -> str:
    """Return an image's id as text: numbers have twelve digits, as in the names of COCO's files."""
    return f"{listed_id:012d}" if isinstance(listed_id, int) else str(listed_id)


def _listed_image(annotation: SegmentAnnotation, id_of: Mapping[str, int | str], where: str) -> int | str:
    """Return the id, in the table of images, of the image that an annotation belongs to."""
    if annotation.image_id is not None:
        return annotation.image_id
    if annotation.file_name is not None:
        return id_of[annotation.file_name]
    raise EvaluationError(f"{where} has neither 'file_name' nor 'image_id'")


def _own_image(annotation: SegmentAnnotation, where: str) -> tuple[int | str, ListedId, str | None]:
    """Return, in a file without a table of images, what identifies the annotation's image, its id and its file name."""
    if annotation.file_name is not None:
        return f"file {annotation.file_name}", None, annotation.file_name
    if annotation.image_id is not None:
        key = annotation.image_id if isinstance(annotation.image_id, int) else f"id {annotation.image_id}"
        return key, annotation.image_id, None
    raise EvaluationError(f"{where} has neither 'file_name' nor 'image_id'")


def panoptic_entries(file: PanopticFile) -> list[PanopticEntry]:
    """Return the images of panoptic annotations."""
    photos = {image.id: image.file_name or "" for image in file.images}
    return [
        PanopticEntry(
            image_id=without_suffix(annotation.file_name),
            file_name=annotation.file_name,
            segment_ids=[segment.id for segment in annotation.segments_info],
            categories=[segment.category_id for segment in annotation.segments_info],
            crowd=[segment.iscrowd for segment in annotation.segments_info],
            listed_id=annotation.image_id,
            photo="" if annotation.image_id is None else photos.get(annotation.image_id, ""),
        )
        for annotation in file.annotations
    ]


def category_table(
    listed: Iterable[CategoryEntry],
    used: Iterable[int],
    protocol: Protocol,
    table: np.ndarray,
    uri: str,
    *,
    by_name: bool,
) -> dict[int, int]:
    """Map the file's category ids to evaluation ids (C: ignored or unlabelled).

    listed: the file's "categories". used: the category ids that occur. table: (65536,) the evaluation id of each
    category id. by_name: match by the names in ``listed`` where there are any. Raises EvaluationError for categories in
    use that the protocol does not have.
    """
    used = sorted(set(used))
    names = {category.id: category.name for category in listed}
    if names and by_name:
        return _by_name(protocol, used, names, table, uri)
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
