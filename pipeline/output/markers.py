"""The marker of a shard, stats/<shard>.json: its existence means that the shard is done, and it holds the shard's sums.

All that names, lists, reads, writes or removes markers goes through this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from maskmill.pipeline.output.folder import Output, errors_name, labels_name
from maskmill.pipeline.output.statistics import RunSums, merge
from maskmill.pipeline.sources.shard import is_shard_id

MARKERS_FOLDER = "stats"
MARKER_SUFFIX = ".json"
HEAD_BYTES = 16 * 1024
"""Enough for everything in a marker except its sums per class."""
_CLASSES_BEGIN = b', "classes": {'


def marker_name(shard_id: str) -> str:
    """The name of a shard's marker, relative to the output."""
    return f"{MARKERS_FOLDER}/{shard_id}{MARKER_SUFFIX}"


def marked_shards(output: Output) -> list[str]:
    """The shards that have a marker, sorted. Every .json file in the folder counts, whoever wrote it."""
    return output.names(MARKERS_FOLDER, MARKER_SUFFIX)


def finished_shards(output: Output) -> list[str]:
    """The shards that have a marker, sorted. Files whose names are no shard ids do not count: users put them there."""
    return [name for name in marked_shards(output) if is_shard_id(name)]


def read_marker(output: Output, shard_id: str) -> dict[str, Any] | None:
    """The whole marker of a shard, None if the shard has none."""
    return output.read_json(marker_name(shard_id))


def marker_bytes(output: Output, shard_id: str) -> int:
    """The size of a shard's marker."""
    return len(output.read_bytes(marker_name(shard_id)))


def read_marker_heads(output: Output, shard_ids: Iterable[str]) -> list[dict[str, Any]]:
    """The markers of these shards without their sums per class, which come last in the file and are most of it."""
    names = [marker_name(shard_id) for shard_id in shard_ids]
    markers = []
    for name, start in zip(names, output.read_heads(names, HEAD_BYTES), strict=True):
        head, separator, _ = start.partition(_CLASSES_BEGIN)
        # The classes are the last entry of "sums", which is the last entry of the marker: two brackets close both.
        markers.append(json.loads(head + b"}}" if separator else output.read_bytes(name)))
    return markers


def read_versions(output: Output, shard_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Shard id -> version and URI of the input that the shard was labelled from."""
    shards = [marker["shard"] for marker in read_marker_heads(output, shard_ids)]
    return {shard["id"]: (shard["version"], shard["uri"]) for shard in shards}


def read_sums(output: Output, shard_ids: Iterable[str]) -> RunSums:
    """The sums of these shards, added up. Raises FileNotFoundError where one of them has no marker."""
    documents = output.read_many(marker_name(shard_id) for shard_id in shard_ids)
    return merge(RunSums.from_dict(json.loads(document)["sums"]) for document in documents)


def write_marker(output: Output, shard_id: str, marker: Mapping[str, Any]) -> int:
    """Declare a shard done, after all its tables are written; return the size of the marker in bytes.

    "sums" must be the last key, since `read_marker_heads` cuts the file off inside it.
    """
    return output.write_json(marker_name(shard_id), marker)


def remove_marker(output: Output, shard_id: str) -> None:
    """Declare a shard not done; its tables stay."""
    output.remove(marker_name(shard_id))


def remove_markers(output: Output, shard_ids: Iterable[str]) -> None:
    """Declare many shards not done; their tables stay."""
    output.remove_many(marker_name(shard_id) for shard_id in shard_ids)


def remove_shards(output: Output, shard_ids: Iterable[str]) -> None:
    """Remove the marker of each shard, then its tables."""
    for shard_id in shard_ids:
        remove_marker(output, shard_id)
        output.remove(labels_name(shard_id))
        output.remove(errors_name(shard_id))
