"""Lists the predictions there are, whoever made them, and where each image's lies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.evaluation.index import PredictionIndex, without_suffix
from pipeline.evaluation.predictions import FILES, INDEX, PredictionSource
from pipeline.evaluation.protocol import Protocol
from pipeline.output import Output

LISTS = "_parts/predictions"
"""Folder, below the results, of the index and of what had to be rewritten to be read in parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """What there is to evaluate.

    index: where each image's prediction lies, files: what its file numbers mean. failed: images in errors tables.
    has_instances: an image may hold several segments of one class. description: what made the predictions.
    """

    source: PredictionSource
    index: PredictionIndex
    files: Sequence[str]
    failed: int = 0
    pending_shards: int = 0
    has_instances: bool = False
    description: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def image_id(self, position: int) -> str:
        """The id of one prediction, read where it stands."""
        name = self.files[int(self.index.file[position])]
        if self.source.kind == "maps":
            return without_suffix(name)
        ids = self.source.data.read_table(name, columns=["image_id"])["image_id"]
        return str(ids[int(self.index.row[position])])


@dataclass(frozen=True, kw_only=True, slots=True)
class FileList:
    """The files of one set of predictions, relative to ``data``, with the image ids in each and their versions."""

    kind: Literal["labels", "maps"]
    data: Output
    names: Sequence[str]
    image_ids: Iterable[Sequence[str]]
    versions: Sequence[str]


def write_lists(
    files: FileList, class_table: np.ndarray, protocol: Protocol, results: Output
) -> tuple[PredictionSource, PredictionIndex]:
    """Index the files and leave index and names where remote tasks find them.

    class_table: evaluation id of each class id in the files. Raises EvaluationError for repeated image ids.
    """
    lists = Output(f"{results.uri}/{LISTS}", results.storage_options)
    index = PredictionIndex.build(files.image_ids)
    lists.write_table(INDEX, index.to_table())
    lists.write_table(FILES, pa.table({"name": pa.array(files.names, pa.string())}))
    digest = hashlib.sha256()
    for text in (*files.names, *files.versions, class_table.tobytes().hex()):
        digest.update(f"{len(text)}:{text}".encode())
    source = PredictionSource(
        kind=files.kind,
        data=files.data,
        lists=lists,
        class_table=class_table,
        classes=len(protocol),
        version=digest.hexdigest()[:16],
    )
    return source, index
