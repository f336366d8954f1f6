"""Finds the prediction of a ground truth image: by image id, else by the file name alone.

Sixteen bytes an image: ids are kept as 64-bit hashes, and whoever reads a prediction compares the id itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.evaluation.protocol import EvaluationError

_SUFFIX = re.compile(r"(\.seg\.png|\.(jpe?g|png|webp|tiff?|bmp|gif))$", re.IGNORECASE)


def stem(image_id: str) -> str:
    """The last part of an id that is a path, without the ending of an image file or ``.seg.png``."""
    return without_suffix(image_id.rsplit("/", 1)[-1])


def without_suffix(name: str) -> str:
    """A file name or path without the ending of an image file or ``.seg.png``, if it has one."""
    return _SUFFIX.sub("", name)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _hashes(texts: Iterable[str]) -> np.ndarray:
    return np.fromiter((_hash(text) for text in texts), dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class PredictionIndex:
    """Where predictions lie. N of them, in the order of their files and rows.

    file, row: (N,) int32. ids, stems: (N,) uint64 hashes. by_id, by_stem: (N,) int64, the order that sorts each.
    """

    file: np.ndarray
    row: np.ndarray
    ids: np.ndarray
    stems: np.ndarray
    by_id: np.ndarray
    by_stem: np.ndarray

    @classmethod
    def build(cls, ids_per_file: Iterable[Sequence[str]]) -> PredictionIndex:
        """Index the image ids of every file. Raises EvaluationError for an id that occurs twice."""
        ids, stems, files, rows = [], [], [], []
        for number, names in enumerate(ids_per_file):
            ids.append(_hashes(names))
            stems.append(_hashes(map(stem, names)))
            files.append(np.full(len(names), number, dtype=np.int32))
            rows.append(np.arange(len(names), dtype=np.int32))
        empty = np.zeros(0, dtype=np.int32)
        index = cls.from_columns(
            np.concatenate([empty, *files]),
            np.concatenate([empty, *rows]),
            np.concatenate([np.zeros(0, np.uint64), *ids]),
            np.concatenate([np.zeros(0, np.uint64), *stems]),
        )
        repeated = index.repeated_ids()
        if repeated.size:
            position = int(repeated[0])
            raise EvaluationError(
                f"{repeated.size} predictions have an image id that an earlier one has, the first in row "
                f"{index.row[position]} of file {index.file[position]}; evaluation needs one prediction an image"
            )
        return index

    @classmethod
    def from_columns(cls, file: np.ndarray, row: np.ndarray, ids: np.ndarray, stems: np.ndarray) -> PredictionIndex:
        """Sort the columns for look-ups."""
        return cls(file, row, ids, stems, np.argsort(ids, kind="stable"), np.argsort(stems, kind="stable"))

    def __len__(self) -> int:
        return self.ids.size

    def repeated_ids(self) -> np.ndarray:
        """Positions whose id an earlier position has."""
        ordered = self.ids[self.by_id]
        return np.sort(self.by_id[1:][ordered[1:] == ordered[:-1]])

    def find(self, image_ids: Sequence[str]) -> np.ndarray:
        """Return (len(image_ids),) int64 positions, -1 where there is no prediction.

        Raises EvaluationError where only the file name agrees and several predictions have it.
        """
        found, _ = _search(self.ids, self.by_id, _hashes(image_ids))
        missing = np.flatnonzero(found < 0).tolist()
        if missing:
            names = [stem(image_ids[i]) for i in missing]
            found[missing], uses = _search(self.stems, self.by_stem, _hashes(names))
            if (uses > 1).any():
                first = int(np.flatnonzero(uses > 1)[0])
                raise EvaluationError(
                    f"ground truth {image_ids[missing[first]]!r} matches no prediction by its whole id, and "
                    f"{uses[first]} by its file name {names[first]!r}: the ids of both sides must agree here"
                )
        return found

    def to_table(self) -> pa.Table:
        """As columns for a Parquet file."""
        return pa.table({"file": self.file, "row": self.row, "id": self.ids, "stem": self.stems})

    @classmethod
    def from_table(cls, table: pa.Table) -> PredictionIndex:
        """The inverse of :meth:`to_table`."""
        return cls.from_columns(*(table[name].to_numpy() for name in ("file", "row", "id", "stem")))


def _search(values: np.ndarray, order: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each wanted value its position (-1: none) and how many positions have it."""
    ordered = values[order]
    low, high = np.searchsorted(ordered, wanted, "left"), np.searchsorted(ordered, wanted, "right")
    found = np.full(wanted.size, -1, dtype=np.int64)
    found[high > low] = order[low[high > low]]
    return found, high - low
