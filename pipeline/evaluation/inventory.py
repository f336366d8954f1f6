"""Lists the predictions to evaluate, of this program or of others, and where the prediction of each image is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from maskmill.pipeline.evaluation.index import PredictionIndex
from maskmill.pipeline.evaluation.namesakes import PlaceIndex, without_suffix
from maskmill.pipeline.evaluation.predictions import FILES, INDEX, PLACES, PredictionSource
from maskmill.pipeline.evaluation.protocol import Protocol
from maskmill.pipeline.output.folder import Output

IdForm = Literal["names", "numbers", "texts"]
LISTS = "_parts/predictions"
"""The folder below the results for the index, and for predictions that were rewritten to be read in parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """What there is to evaluate.

    index: where the prediction of each image is. files: the names behind the index's file numbers. failed: how many
    images are in errors tables. has_instances: whether an image may have several segments of one class. ids: how the
    predictions name their images: by names, unless a results file has only numbers or texts under "image_id".
    description: what made the predictions.
    """

    source: PredictionSource
    index: PredictionIndex
    files: Sequence[str]
    failed: int = 0
    pending_shards: int = 0
    has_instances: bool = False
    ids: IdForm = "names"
    description: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def image_id(self, position: int) -> str:
        """Return the id of one prediction, read from its file."""
        name = self.files[int(self.index.file[position])]
        if self.source.kind == "maps":
            return without_suffix(name)
        ids = self.source.data.read_table(name, columns=["image_id"])["image_id"]
        return str(ids[int(self.index.row[position])])


@dataclass(frozen=True, kw_only=True, slots=True)
class FileList:
    """The files of one set of predictions, relative to ``data``, with the image ids in each and their versions.

    uris: returns where the images of one file (by its number) are, or their file names; called only where ids repeat.
    suffix: removed from the ends of image ids.
    """

    kind: Literal["labels", "maps"]
    data: Output
    names: Sequence[str]
    image_ids: Iterable[Sequence[str]]
    versions: Sequence[str]
    uris: Callable[[int], Sequence[str]]
    suffix: str = ""


def write_lists(
    files: FileList, class_table: np.ndarray, protocol: Protocol, results: Output
) -> tuple[PredictionSource, PredictionIndex]:
    """Index the files, and write the index and the file names below the results, where remote tasks read them.

    class_table: evaluation id of each class id in the files.
    """
    lists = Output(f"{results.uri}/{LISTS}", results.storage_options)
    index = PredictionIndex.build([name.removesuffix(files.suffix) for name in names] for names in files.image_ids)
    index = index.with_places(PlaceIndex.build(_shared_ids(index, files)))
    lists.write_table(INDEX, index.to_table())
    lists.write_table(PLACES, index.places.to_table())
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
        suffix=files.suffix,
        version=digest.hexdigest()[:16],
    )
    return source, index


def _shared_ids(index: PredictionIndex, files: FileList) -> Iterator[tuple[int, Sequence[np.uint64], str]]:
    """Yield position, hashes of the id and its last part, and URI of every prediction whose id others have too."""
    repeated = index.repeated_ids()
    for number in np.unique(index.file[repeated]).tolist():
        uris = files.uris(number)
        for position in repeated[index.file[repeated] == number].tolist():
            yield position, (index.ids[position], index.stems[position]), uris[int(index.row[position])]
