"""Finds the images of labelled rows again, by the URI that their labels carry and without listing the input.

What it costs: one request per image that is a file of its own; the row groups that hold the wanted rows of a Parquet
file; a tar from its beginning to the last wanted member.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from pipeline.errors import BadImageError
from pipeline.sources.files import READ_THREADS, Fetched, fetch, ordered_map
from pipeline.sources.parquet import open_parquet, parquet_layout, read_parquet, row_group_rows
from pipeline.sources.shard import DEFAULT_LIMITS, ReadLimits
from pipeline.sources.stream import open_stream
from pipeline.sources.tar import read_tar
from pipeline.sources.version import file_info
from pipeline.storage import StorageOptions, open_filesystem, with_retries

_TAR = re.compile(r"^(.+?\.(?:tar|tar\.gz|tgz)(?:\?[^#]*)?)#", re.IGNORECASE | re.DOTALL)
_PARQUET = re.compile(r"^(.+?\.(?:parquet|pq)(?:\?[^#]*)?)#row=(\d+)$", re.IGNORECASE | re.DOTALL)

_GONE = BadImageError("read", "not_found", "the image is no longer where it was labelled")


class ImageFinder:
    """Reads source images of a run.

    image_column: of Parquet inputs, as the run was told; None to find it. limits: bounds while reading.
    """

    def __init__(
        self,
        storage_options: StorageOptions | None = None,
        image_column: str | None = None,
        limits: ReadLimits = DEFAULT_LIMITS,
    ) -> None:
        self.storage_options = storage_options
        self.image_column = image_column
        self.limits = limits

    def read(self, uris: Mapping[int, str], max_bytes: int | None = None) -> Iterator[tuple[int, Fetched]]:
        """Yield (row, encoded bytes or why there are none) for rows of one shard, in ascending order.

        uris: the labels' ``uri`` by ``row``. Reading of a tar or table ends early once ``max_bytes`` of its images
        have passed; the rows left are not yielded. Storage errors are raised as they are; DamagedError where a tar or
        table is.
        """
        if not uris:
            return
        rows = sorted(uris)
        first = uris[rows[0]]
        if tar := _TAR.match(first):
            yield from self._from_tar(tar[1], rows, uris, max_bytes)
        elif table := _PARQUET.match(first):
            yield from self._from_table(table[1], rows, uris, max_bytes)
        else:
            yield from ordered_map(lambda row: self._fetch(uris[row]), rows, READ_THREADS)

    def _fetch(self, uri: str) -> Fetched:
        return fetch(uri, self.storage_options, self.limits)

    def _from_tar(
        self, location: str, rows: Sequence[int], uris: Mapping[int, str], max_bytes: int | None
    ) -> Iterator[tuple[int, Fetched]]:
        fs, path = open_filesystem(location, self.storage_options)
        passed_bytes = 0
        found = 0
        with open_stream(fs, path, with_retries(lambda: file_info(fs, path))) as stream:
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
        by_position = {int(uris[row].rpartition("=")[2]): row for row in rows}
        fs, path = open_filesystem(location, self.storage_options)
        passed_bytes = 0
        with open_stream(fs, path, with_retries(lambda: file_info(fs, path))) as stream:
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
