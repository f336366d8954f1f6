"""Finds the images of labelled rows again, by the URI in their labels and without listing the input.

The cost: one request for an image that is a single file; of a Parquet file, the row groups that hold wanted rows; of a
tar, everything from its beginning to the last wanted member.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import numpy as np

from maskmill.pipeline.decoding.decode import DEFAULT, Decoding, ImageHeader, decode_for, read_header
from maskmill.pipeline.errors import BadImageError, UsageError
from maskmill.pipeline.sources.files import READ_THREADS, Fetched, fetch, ordered_map
from maskmill.pipeline.sources.named import NamedReader
from maskmill.pipeline.sources.parquet import open_parquet, parquet_layout, read_parquet, row_group_rows
from maskmill.pipeline.sources.shard import DEFAULT_LIMITS, DamagedError, ReadLimits, unprintable
from maskmill.pipeline.sources.stream import open_file
from maskmill.pipeline.sources.tar import read_tar
from maskmill.pipeline.storage.files import (
    StorageOptions,
    is_missing,
    is_permission,
    is_transient,
)
from maskmill.pipeline.uris import scheme_of

FORBIDDEN, UNREACHABLE = "forbidden", "unreachable"
"""Error classes of images whose store refuses access or does not answer: many of them in a row are a reason to stop."""

_TAR = re.compile(r"^(.+?\.(?:tar|tar\.gz|tgz)(?:\?[^#]*)?)#(.*)$", re.IGNORECASE | re.DOTALL)
_PARQUET = re.compile(r"^(.+?\.(?:parquet|pq)(?:\?[^#]*)?)#row=(\d+)$", re.IGNORECASE | re.DOTALL)
_GONE = BadImageError("read", "not_found", "the image is no longer where it was labelled")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the ``uri`` of a labels row points. location: the file. member: name in a tar or row of a table."""

    kind: Literal["tar", "table", "file"]
    location: str
    member: str = ""


def place_of(uri: str) -> Place:
    """Take a URI of the labels apart. "?" and "#" are part of a name, except after the name of a tar or table."""
    if table := _PARQUET.match(uri):
        return Place("table", table[1], table[2])
    # A local folder may be called "a.tar#b": if a file exists under the whole name, that file is meant.
    if (tar := _TAR.match(uri)) and not os.path.isfile(path_on_disk(uri)):
        return Place("tar", tar[1], tar[2])
    return Place("file", uri)


def path_on_disk(path: str) -> str:
    """The local file that ``path`` of the labels means: in parts that do not exist, escapes may stand for bytes."""
    if os.path.lexists(path) or unprintable(path) == path:
        return path
    parent, name = os.path.split(path)
    parent = path_on_disk(parent)
    literal = os.path.join(parent, name)
    return literal if os.path.lexists(literal) else os.path.join(parent, unprintable(name))


def _address(uri: str) -> str:
    """The address that ``uri`` of the labels is opened by."""
    return path_on_disk(uri) if scheme_of(uri) is None else uri


class ImageFinder:
    """Reads source images of a run.

    image_column: the column of Parquet inputs that the run was given; None to find it. limits: bounds while reading.
    how: the run's settings of decoding. source: the run's input; images that lie elsewhere were named by a list, and
    are read only if a list may name them. With None every image may be read.
    """

    def __init__(
        self,
        storage_options: StorageOptions | None = None,
        image_column: str | None = None,
        limits: ReadLimits = DEFAULT_LIMITS,
        how: Decoding = DEFAULT,
        source: str | None = None,
    ) -> None:
        self.storage_options = storage_options
        self.image_column = image_column
        self.limits = limits
        self.how = how
        self._named = (
            None if source is None else NamedReader(location=source, storage_options=storage_options, limits=limits)
        )

    def pixels(self, fetched: Fetched, row: Mapping[str, Any]) -> np.ndarray:
        """Decode an image that :meth:`read` found, (H, W, 3) uint8, upright. row: of the labels.

        Raises BadImageError where there is none, it cannot be decoded or its size is not that of the labels.
        """
        data = _data_of(fetched)
        pixels = decode_for(data, None, self.how).pixels
        _check_size((pixels.shape[0], pixels.shape[1]), row)
        return pixels

    def header(self, fetched: Fetched, row: Mapping[str, Any]) -> tuple[bytes, ImageHeader]:
        """The encoded image that :meth:`read` found, and its header. Raises as :meth:`pixels`."""
        data = _data_of(fetched)
        header = read_header(data, max_pixels=self.how.max_pixels)
        _check_size((header.height, header.width), row)
        return data, header

    def read(self, uris: Mapping[int, str], max_bytes: int | None = None) -> Iterator[tuple[int, Fetched]]:
        """Yield (row, encoded bytes or why there are none) for rows of one shard, in ascending order.

        uris: the labels' ``uri`` by ``row``. Reading of a tar or table ends early once ``max_bytes`` of its images have
        been read; the remaining rows are not yielded. An error of a file, archive, table or store becomes the error of
        every row that it keeps from being read.
        """
        if not uris:
            return
        rows = sorted(uris)
        place = place_of(uris[rows[0]])
        if place.kind == "file":
            yield from ordered_map(lambda row: self._fetch(uris[row]), rows, READ_THREADS)
            return
        read = self._from_tar if place.kind == "tar" else self._from_table
        done = 0
        try:
            for row, fetched in read(place.location, rows, uris, max_bytes):
                yield row, fetched
                done += 1
        except Exception as error:
            if (found := _row_error(error)) is None:
                raise
            yield from ((row, Fetched(error=found)) for row in rows[done:])

    def _fetch(self, uri: str) -> Fetched:
        try:
            place = _address(uri)
            return fetch(place, self.storage_options, self.limits) if self._named is None else self._named.read(place)
        except Exception as error:
            if (found := _row_error(error)) is None:
                raise
            return Fetched(error=found)

    def _from_tar(
        self, location: str, rows: Sequence[int], uris: Mapping[int, str], max_bytes: int | None
    ) -> Iterator[tuple[int, Fetched]]:
        passed_bytes = 0
        found = 0
        with open_file(_address(location), self.storage_options) as stream:
            for record in read_tar(stream, location, self.limits):
                if record.row == rows[found]:
                    same = record.uri == uris[record.row]
                    yield record.row, Fetched(data=record.data, error=record.error) if same else Fetched(error=_GONE)
                    found += 1
                passed_bytes += len(record.data or b"")
                if found == len(rows) or (max_bytes is not None and passed_bytes > max_bytes):
                    return
        yield from ((row, Fetched(error=_GONE)) for row in rows[found:])

    def _from_table(
        self, location: str, rows: Sequence[int], uris: Mapping[int, str], max_bytes: int | None
    ) -> Iterator[tuple[int, Fetched]]:
        by_position = {int(place_of(uris[row]).member): row for row in rows}
        passed_bytes = 0
        with open_file(_address(location), self.storage_options) as stream:
            file = open_parquet(stream)
            layout = parquet_layout(file, self.image_column)
            start = 0
            for group, stop in enumerate(accumulate(row_group_rows(file))):
                wanted = {position for position in by_position if start <= position < stop}
                start = stop
                if not wanted:
                    continue
                for row in read_parquet(file, range(group, group + 1), layout, self.limits):
                    if row.position in wanted:
                        yield by_position.pop(row.position), Fetched(data=row.data, error=row.error)
                        wanted.discard(row.position)
                    passed_bytes += len(row.data or b"")
                    if max_bytes is not None and passed_bytes > max_bytes:
                        return
                    if not wanted:
                        break
        yield from ((row, Fetched(error=_GONE)) for row in sorted(by_position.values()))


def _data_of(fetched: Fetched) -> bytes:
    if fetched.data is None:
        raise fetched.error or _GONE
    return fetched.data


def _check_size(size: tuple[int, int], row: Mapping[str, Any]) -> None:
    """size: (height, width), upright."""
    if size != (row["height"], row["width"]):
        raise BadImageError(
            "read",
            "changed",
            f"the image has changed since it was labelled: {size[1]} x {size[0]} pixels now, {row['width']} x "
            f"{row['height']} then",
        )


def _row_error(error: Exception) -> BadImageError | None:
    """The error of an image whose file, archive, table or store fails; None for errors of another kind."""
    if isinstance(error, DamagedError):
        return BadImageError("read", "damaged_shard", str(error))
    if isinstance(error, UsageError):
        return BadImageError("read", "bad_uri", str(error))
    if is_missing(error):
        return BadImageError("read", "not_found", "there is no such file")
    if is_permission(error):
        return BadImageError("read", FORBIDDEN, f"the store refuses access ({type(error).__name__})")
    if is_transient(error):
        return BadImageError("read", UNREACHABLE, f"the store does not answer ({type(error).__name__})")
    if isinstance(error, OSError):
        return BadImageError("read", UNREACHABLE, f"it cannot be opened ({type(error).__name__})")
    return None
