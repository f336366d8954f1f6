"""Distinguishes predictions with the same image id by the places of their images: an id is unique in its shard only."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

_SUFFIX = re.compile(r"(\.seg\.png|\.(jpe?g|png|webp|tiff?|bmp|gif))$", re.IGNORECASE)


def without_suffix(name: str) -> str:
    """Return a file name or path without the ending of an image file or ``.seg.png``, if it has one."""
    return _SUFFIX.sub("", name)


def hash_of(text: str) -> int:
    """Return a 64-bit hash of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def hashes_of(texts: Iterable[str]) -> np.ndarray:
    """Return the 64-bit hashes of texts, (texts,) uint64."""
    return np.fromiter((hash_of(text) for text in texts), dtype=np.uint64)


def _places(uri: str, name: np.uint64, file_name: str) -> Iterator[str]:
    """Yield what distinguishes an image from others with its id or file name (``name``, a hash), most certain first.

    These are its whole address, its archive or table with its place there, and the ending of its file name.
    """
    if uri:
        yield f"uri {without_suffix(uri)}"
        container, separator, member = uri.rpartition("#")
        if separator:
            yield f"member {posixpath.basename(container)}#{without_suffix(member)}"
    if file_name:
        yield f"ending {name} {file_name[len(without_suffix(file_name)) :].lower()}"


@dataclass(frozen=True, slots=True)
class PlaceIndex:
    """Places of predictions that share their id with others. keys: (K,) sorted uint64 hashes. positions: (K,) int64."""

    keys: np.ndarray
    positions: np.ndarray

    @classmethod
    def build(cls, rows: Iterable[tuple[int, Sequence[np.uint64], str]]) -> PlaceIndex:
        """Index the position, the hashes of the image id and its last part, and the URI of each such prediction."""
        keys, positions = [], []
        for position, names, uri in rows:
            for place in dict.fromkeys(place for name in names for place in _places(uri, name, uri)):
                keys.append(hash_of(place))
                positions.append(position)
        order = np.argsort(np.array(keys, np.uint64), kind="stable")
        return cls(np.array(keys, np.uint64)[order], np.array(positions, np.int64)[order])

    def find(self, uri: str, file_name: str, ids: np.ndarray, wanted: np.uint64) -> int | None:
        """Return the prediction whose place fits ground truth of this URI or file name, None if not exactly one does.

        uri: of the label map. file_name: of the image itself, as the ground truth gives it. ids: (N,) hashes of all
        predictions, of which only those equal to ``wanted`` are considered.
        """
        for place in _places(uri, wanted, file_name):
            key = np.uint64(hash_of(place))
            low, high = np.searchsorted(self.keys, key, "left"), np.searchsorted(self.keys, key, "right")
            here = self.positions[low:high]
            here = here[ids[here] == wanted]
            if here.size == 1:
                return int(here[0])
        return None

    def to_table(self) -> pa.Table:
        """Return the columns for a Parquet file."""
        return pa.table({"key": self.keys, "position": self.positions})

    @classmethod
    def from_table(cls, table: pa.Table) -> PlaceIndex:
        """The inverse of :meth:`to_table`."""
        return cls(table["key"].to_numpy(), table["position"].to_numpy())
