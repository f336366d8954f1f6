"""Finds the prediction of a ground truth image: by image id, else by the file name alone.

Ids are kept as 64-bit hashes, so that the index takes sixteen bytes per image; the reader of a prediction compares the
id itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from maskmill.pipeline.evaluation.namesakes import PlaceIndex, hashes_of, without_suffix

MISSING = -1
"""The position that means that there is no prediction."""
AMBIGUOUS = -2
"""The position that means that there are several predictions, and nothing shows which of them is meant."""


def stem(image_id: str) -> str:
    """Return the last part of an id that is a path, without the ending of an image file or ``.seg.png``."""
    return without_suffix(image_id.rsplit("/", 1)[-1])


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known of a ground truth image to find its prediction by.

    names: what its id may be, the most certain first. uri: where its label map is. file_name: the name of the image
    itself. The last two decide between predictions with the same id.
    """

    names: tuple[str, ...]
    uri: str = ""
    file_name: str = ""


NOTHING_KNOWN = Wanted(())
_NO_PLACES = PlaceIndex(np.zeros(0, np.uint64), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class PredictionIndex:
    """Where N predictions are, in the order of their files and rows.

    file, row: (N,) int32. ids, stems: (N,) uint64 hashes. by_id, by_stem: (N,) int64, the order that sorts each.
    places: where the images are whose predictions share their id with others.
    """

    file: np.ndarray
    row: np.ndarray
    ids: np.ndarray
    stems: np.ndarray
    by_id: np.ndarray
    by_stem: np.ndarray
    places: PlaceIndex = _NO_PLACES

    @classmethod
    def build(cls, ids_per_file: Iterable[Sequence[str]]) -> PredictionIndex:
        """Index the image ids of every file."""
        ids, stems, files, rows = [], [], [], []
        for number, names in enumerate(ids_per_file):
            ids.append(hashes_of(names))
            stems.append(hashes_of(map(stem, names)))
            files.append(np.full(len(names), number, dtype=np.int32))
            rows.append(np.arange(len(names), dtype=np.int32))
        empty = np.zeros(0, dtype=np.int32)
        return cls.from_columns(
            np.concatenate([empty, *files]),
            np.concatenate([empty, *rows]),
            np.concatenate([np.zeros(0, np.uint64), *ids]),
            np.concatenate([np.zeros(0, np.uint64), *stems]),
        )

    @classmethod
    def from_columns(cls, file: np.ndarray, row: np.ndarray, ids: np.ndarray, stems: np.ndarray) -> PredictionIndex:
        """Sort the columns for look-ups."""
        return cls(file, row, ids, stems, np.argsort(ids, kind="stable"), np.argsort(stems, kind="stable"))

    def __len__(self) -> int:
        return self.ids.size

    def with_places(self, places: PlaceIndex) -> PredictionIndex:
        """Return the same index, which can now distinguish predictions with the same id."""
        return replace(self, places=places)

    def repeated_ids(self) -> np.ndarray:
        """Return the positions of all predictions that share their id with another one, ascending."""
        ordered = self.ids[self.by_id]
        same = ordered[1:] == ordered[:-1]
        return np.sort(self.by_id[np.append(same, False) | np.insert(same, 0, False)]) if ordered.size else self.by_id

    def find(self, wanted: Sequence[Wanted]) -> np.ndarray:
        """Return (len(wanted),) int64 positions, MISSING or AMBIGUOUS. Whole ids are tried before file names."""
        found = np.full(len(wanted), MISSING, dtype=np.int64)
        most = max((len(each.names) for each in wanted), default=0)
        passes: tuple[tuple[np.ndarray, np.ndarray, Callable[[str], str]], ...] = (
            (self.ids, self.by_id, str),
            (self.stems, self.by_stem, stem),
        )
        for values, order, key in passes:
            for number in range(most):
                waiting = [i for i in np.flatnonzero(found == MISSING).tolist() if number < len(wanted[i].names)]
                if not waiting:
                    continue
                hashes = hashes_of(key(wanted[i].names[number]) for i in waiting)
                for i, value, start, stop in zip(waiting, hashes, *_search(values, order, hashes), strict=True):
                    if stop - start == 1:
                        found[i] = order[start]
                    elif stop > start:
                        place = self.places.find(wanted[i].uri, wanted[i].file_name, values, value)
                        found[i] = AMBIGUOUS if place is None else place
        return found

    def to_table(self) -> pa.Table:
        """Return the columns for a Parquet file, without the places."""
        return pa.table({"file": self.file, "row": self.row, "id": self.ids, "stem": self.stems})

    @classmethod
    def from_table(cls, table: pa.Table) -> PredictionIndex:
        """The inverse of :meth:`to_table`."""
        return cls.from_columns(*(table[name].to_numpy() for name in ("file", "row", "id", "stem")))


def _search(values: np.ndarray, order: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each wanted value the start and the end of its positions in ``order``; the same where it has none."""
    ordered = values[order]
    return np.searchsorted(ordered, wanted, "left"), np.searchsorted(ordered, wanted, "right")
