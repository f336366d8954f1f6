"""Exports a folder in the layout of FiftyOneDataset, which ``fiftyone.Dataset.from_dir`` imports."""

from __future__ import annotations

import base64
import hashlib
import io
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from maskmill.pipeline.export.json_lists import JsonLists, encode, finite
from maskmill.pipeline.export.label_maps import LabelMapEncoder
from maskmill.pipeline.export.target import LabelledImage, Target
from maskmill.pipeline.masks.maps import segment_map
from maskmill.pipeline.results.reader import Results

VERSION = "1.0.0"
"""The release of FiftyOne whose document layout is written; later releases migrate it on import."""
FIRST_VALUE = 1
"""The value of class 0 in label maps; class c has value c + 1, because FiftyOne takes 0 for background."""

_FIELDS = "fiftyone.core.fields."
_LABELS = "fiftyone.core.labels."


def export_fiftyone(target: Target, images: Iterator[LabelledImage]) -> None:
    """Write ``metadata.json``, ``samples.json``, and label maps below ``fields/segmentation/``; images go to ``data/``.

    A sample has ``segmentation`` (the label map) and ``segments`` (a detection with a mask per segment; score as
    ``confidence``, quality figures as attributes), ``image_id``, ``uri``, ``shard``, ``row`` and ``coverage``.
    """
    encode_map = LabelMapEncoder(target.results, first=FIRST_VALUE, unlabelled=0, coloured=False)
    target.write("metadata.json", encode(_metadata(target.results)))
    with target.open("samples.json") as stream, JsonLists(stream, {}, ("samples",)) as document:
        for image in images:
            target.write(f"fields/segmentation/{image.stem}.png", encode_map(image.row))
            document.add("samples", _sample(image))


def _sample(image: LabelledImage) -> dict[str, Any]:
    row = image.row
    return {
        "_id": _object_id(row["shard"], row["row"]),
        "filepath": f"data/{image.file_name}" if image.data is not None else row["uri"],
        "tags": [],
        "metadata": {"_cls": "ImageMetadata", "width": row["width"], "height": row["height"]},
        "_media_type": "image",
        "_rand": image.number * 0.618033988749895 % 1,
        "image_id": row["image_id"],
        "uri": row["uri"],
        "shard": row["shard"],
        "row": row["row"],
        "coverage": finite(row["coverage"]),
        "segmentation": {
            "_id": _object_id(row["shard"], row["row"], "segmentation"),
            "_cls": "Segmentation",
            "tags": [],
            "mask_path": f"fields/segmentation/{image.stem}.png",
        },
        "segments": {"_cls": "Detections", "detections": list(_detections(row))},
    }


def _detections(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    positions = segment_map(row["rles"], row["height"], row["width"])
    for position, name in enumerate(row["class_names"]):
        left, top, width, height = row["boxes"][position]
        inside = positions[top : top + height, left : left + width] == position
        box = [left / row["width"], top / row["height"], width / row["width"], height / row["height"]]
        yield {
            "_id": _object_id(row["shard"], row["row"], position),
            "_cls": "Detection",
            "attributes": {},
            "tags": [],
            "label": name,
            "bounding_box": box,
            "mask": {"$binary": {"base64": _packed(inside), "subType": "00"}},
            "confidence": finite(row["scores"][position]),
            "area": row["areas"][position],
            "stability": finite(row["stability"][position]),
            "agreement": finite(row["agreement"][position]),
        }


def _packed(mask: np.ndarray) -> str:
    """Return a mask as FiftyOne stores arrays: an .npy file, zlib-compressed, in base64."""
    sink = io.BytesIO()
    np.save(sink, mask, allow_pickle=False)
    return base64.b64encode(zlib.compress(sink.getvalue())).decode("ascii")


def _object_id(*parts: object) -> dict[str, str]:
    """Return a stable id of 12 bytes, so that exporting again gives the same documents."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogateescape")
    return {"$oid": hashlib.sha256(text).hexdigest()[:24]}


def _metadata(results: Results) -> dict[str, Any]:
    created = {"$date": int(results.run["created_at"] * 1000)}
    targets = {str(entry.class_id + FIRST_VALUE): entry.name for entry in results.classes}
    return {
        "_id": _object_id(results.run["run_id"]),
        "name": f"maskmill-{results.run['run_id']}",
        "version": VERSION,
        "created_at": created,
        "last_modified_at": created,
        "media_type": "image",
        "persistent": False,
        "tags": [],
        "info": {"run_id": results.run["run_id"]},
        "classes": {"segments": results.names},
        "default_classes": [],
        "mask_targets": {"segmentation": targets},
        "default_mask_targets": targets,
        "skeletons": {},
        "group_media_types": {},
        "app_config": {},
        "sample_fields": _sample_fields(),
        "frame_fields": [],
        "saved_views": [],
        "workspaces": [],
        "annotation_runs": {},
        "brain_methods": {},
        "evaluations": {},
        "runs": {},
    }


def _sample_fields() -> list[dict[str, Any]]:
    image_metadata = [
        _field("size_bytes", "IntField"),
        _field("mime_type", "StringField"),
        _field("width", "IntField"),
        _field("height", "IntField"),
        _field("num_channels", "IntField"),
    ]
    return [
        _field("id", "ObjectIdField", db_field="_id"),
        _field("filepath", "StringField"),
        _field("tags", "ListField", subfield="StringField"),
        _embedded("metadata", "fiftyone.core.metadata.ImageMetadata", image_metadata),
        _field("_media_type", "StringField"),
        _field("_rand", "FloatField"),
        _field("_dataset_id", "ObjectIdField"),
        _field("created_at", "DateTimeField"),
        _field("last_modified_at", "DateTimeField"),
        _field("image_id", "StringField"),
        _field("uri", "StringField"),
        _field("shard", "StringField"),
        _field("row", "IntField"),
        _field("coverage", "FloatField"),
        _embedded("segmentation", f"{_LABELS}Segmentation", [*_label_fields(), *_mask_fields()]),
        _embedded("segments", f"{_LABELS}Detections", [_detection_list()]),
    ]


def _detection_list() -> dict[str, Any]:
    fields = [
        *_label_fields(),
        {
            **_field("attributes", "DictField", subfield="EmbeddedDocumentField"),
            "embedded_doc_type": f"{_LABELS}Attribute",
        },
        _field("label", "StringField"),
        _field("bounding_box", "ListField", subfield="FloatField"),
        *_mask_fields(),
        _field("confidence", "FloatField"),
        _field("index", "IntField"),
        _field("area", "IntField"),
        _field("stability", "FloatField"),
        _field("agreement", "FloatField"),
    ]
    detections = _field("detections", "ListField", subfield="EmbeddedDocumentField")
    return {**detections, "embedded_doc_type": f"{_LABELS}Detection", "fields": fields}


def _label_fields() -> list[dict[str, Any]]:
    return [_field("id", "ObjectIdField", db_field="_id"), _field("tags", "ListField", subfield="StringField")]


def _mask_fields() -> list[dict[str, Any]]:
    return [_field("mask", "ArrayField"), _field("mask_path", "StringField")]


def _embedded(name: str, kind: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {**_field(name, "EmbeddedDocumentField"), "embedded_doc_type": kind, "fields": fields}


def _field(name: str, kind: str, *, subfield: str | None = None, db_field: str | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "ftype": _FIELDS + kind,
        "embedded_doc_type": None,
        "subfield": None if subfield is None else _FIELDS + subfield,
        "fields": [],
        "db_field": db_field or name,
        "description": None,
        "info": None,
    }
