"""What COCO's JSON files must hold to be read: annotations with RLEs, results, and panoptic annotations.

Only the keys named here are read and kept, so that other contents of a file, such as polygons, cost no memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

from pycocotools import mask as coco_mask
from pydantic import ConfigDict, FailFast, Field, PlainValidator, TypeAdapter
from pydantic.dataclasses import dataclass

from maskmill.pipeline.evaluation.protocol import EvaluationError
from maskmill.pipeline.storage.documents import Flag, Identifier, parse_json, short

_STRICT = ConfigDict(strict=True, extra="ignore")
_EDGE = 2**31


class Rle(NamedTuple):
    """One segmentation. counts: compressed, as COCO writes them."""

    height: int
    width: int
    counts: str


def _rle(value: Any) -> Rle:
    if not isinstance(value, Mapping) or "counts" not in value or "size" not in value:
        raise ValueError("must be an RLE with 'size' and 'counts'; polygons are not read")
    size, counts = value["size"], value["counts"]
    if not isinstance(size, list) or len(size) != 2 or not all(_is_edge(edge) for edge in size):
        raise ValueError(f"an RLE's size must be [height, width], got {short(size)}")
    height, width = size
    if isinstance(counts, str):
        if not counts.isascii() or not counts:
            raise ValueError(f"an RLE's counts must be compressed counts or a list, got {short(counts)}")
        return Rle(height, width, counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("an RLE's counts must be compressed counts or a list of integers from 0 on")
    if sum(counts) != height * width:
        raise ValueError(f"an RLE covers {sum(counts)} pixels of {height}x{width}")
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return Rle(height, width, encoded["counts"].decode())


def _is_edge(value: Any) -> bool:
    return type(value) is int and 0 < value < _EDGE


FileName = Annotated[str, Field(min_length=1)]
Edge = Annotated[int, Field(gt=0, lt=_EDGE)]


@dataclass(slots=True, config=_STRICT)
class ImageEntry:
    """One image of the table ``images``."""

    id: Identifier
    file_name: FileName | None = None
    height: Edge | None = None
    width: Edge | None = None


@dataclass(slots=True, config=_STRICT)
class CategoryEntry:
    """One class of the table ``categories``."""

    id: int
    name: str


@dataclass(slots=True, config=_STRICT)
class SegmentAnnotation:
    """One segment of an annotation or results file."""

    category_id: int
    segmentation: Annotated[Rle, PlainValidator(_rle)]
    image_id: Identifier | None = None
    file_name: FileName | None = None
    iscrowd: Flag = False
    score: Annotated[float, Field(ge=0, le=1)] | None = None


@dataclass(slots=True, config=_STRICT)
class SegmentInfo:
    """One segment of a panoptic PNG; ``id`` is the segment's value in the PNG, where 0 means that there is none."""

    id: Annotated[int, Field(gt=0, lt=2**24)]
    category_id: int
    iscrowd: Flag = False


@dataclass(slots=True, config=_STRICT)
class PanopticAnnotation:
    """One image of panoptic annotations; ``file_name`` is the name of its PNG."""

    file_name: FileName
    segments_info: list[SegmentInfo]
    image_id: Identifier | None = None


@dataclass(slots=True, config=_STRICT)
class SegmentFile:
    """Annotations with RLEs."""

    annotations: Annotated[list[SegmentAnnotation], FailFast()] = Field(default_factory=list)
    images: Annotated[list[ImageEntry], FailFast()] = Field(default_factory=list)
    categories: Annotated[list[CategoryEntry], FailFast()] = Field(default_factory=list)


@dataclass(slots=True, config=_STRICT)
class ResultsFile(SegmentFile):
    """A results file, which is a list and has no tables."""


@dataclass(slots=True, config=_STRICT)
class PanopticFile:
    """Panoptic annotations."""

    annotations: Annotated[list[PanopticAnnotation], FailFast()]
    images: Annotated[list[ImageEntry], FailFast()] = Field(default_factory=list)
    categories: Annotated[list[CategoryEntry], FailFast()] = Field(default_factory=list)


_RESULTS = TypeAdapter(Annotated[list[SegmentAnnotation], FailFast()])
_SEGMENTS = TypeAdapter(SegmentFile)
_PANOPTIC = TypeAdapter(PanopticFile)


def parse_coco(data: bytes, uri: str) -> SegmentFile | PanopticFile:
    """Parse and check a COCO file of either kind. Raises EvaluationError naming the file and the wrong entry."""
    if re.match(rb"[\s\xef\xbb\xbf]*\[", data[:256]):
        return ResultsFile(annotations=parse_json(data, _RESULTS, uri, EvaluationError))
    found: SegmentFile | PanopticFile
    if b'"segments_info"' in data:
        found = parse_json(data, _PANOPTIC, uri, EvaluationError)
    else:
        found = parse_json(data, _SEGMENTS, uri, EvaluationError)
        if not found.annotations and b'"annotations"' not in data:
            raise EvaluationError(f"{uri} is no COCO file: expected a list of results, or 'images' and 'annotations'")
    refuse_repeats(uri, "images[{}].id", [image.id for image in found.images])
    refuse_repeats(uri, "images[{}].file_name", [image.file_name for image in found.images])
    refuse_repeats(uri, "categories[{}].id", [category.id for category in found.categories])
    if isinstance(found, PanopticFile):
        _check_panoptic(found, uri)
    elif found.images:
        _check_segments(found, uri)
    return found


def refuse_repeats(uri: str, place: str, values: Iterable[Any]) -> None:
    """Raise EvaluationError where two entries have the same value, naming both entries. None does not count."""
    first: dict[Any, int] = {}
    for number, value in enumerate(values):
        if value is not None and first.setdefault(value, number) != number:
            raise EvaluationError(
                f"{uri}: {place.format(number)}: {short(value)} is also that of {place.format(first[value])}"
            )


def _check_segments(found: SegmentFile, uri: str) -> None:
    """Raise EvaluationError for an annotation of an image that is not listed."""
    ids = {image.id for image in found.images}
    names = {image.file_name for image in found.images}
    for number, entry in enumerate(found.annotations):
        if entry.image_id is not None:
            if entry.image_id not in ids:
                raise _not_listed(uri, f"annotations[{number}].image_id", entry.image_id)
        elif entry.file_name is not None and entry.file_name not in names:
            raise _not_listed(uri, f"annotations[{number}].file_name", entry.file_name)


def _check_panoptic(found: PanopticFile, uri: str) -> None:
    refuse_repeats(uri, "annotations[{}].file_name", [entry.file_name for entry in found.annotations])
    refuse_repeats(uri, "annotations[{}].image_id", [entry.image_id for entry in found.annotations])
    ids = {image.id for image in found.images}
    for number, entry in enumerate(found.annotations):
        place = f"annotations[{number}]"
        if ids and entry.image_id is not None and entry.image_id not in ids:
            raise _not_listed(uri, f"{place}.image_id", entry.image_id)
        refuse_repeats(uri, place + ".segments_info[{}].id", [segment.id for segment in entry.segments_info])


def _not_listed(uri: str, place: str, value: Any) -> EvaluationError:
    return EvaluationError(f"{uri}: {place}: {short(value)} is not in the file's table 'images'")
