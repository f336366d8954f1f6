"""What every format gets: the labelled images one after the other, and a place to write to."""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from types import TracebackType
from typing import IO, Any

from fsspec import AbstractFileSystem

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.results.reader import Results
from maskmill.pipeline.storage.files import (
    StorageOptions,
    is_local,
    open_atomic,
    open_filesystem,
    public_uri,
    with_retries,
)

WRITERS = 8
WAITING_FILES = 64
WAITING_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledImage:
    """One row of the labels to export.

    row: schema LABELS. number: counts from 1 over the whole export. stem: its name in the export without the ending,
    "shard/name", which is unique and safe in paths. file_name: the name of its image: "stem.ext" where images are
    exported, else the name in the source. data: the encoded upright image, None where images are not exported.
    """

    row: dict[str, Any]
    number: int
    stem: str
    file_name: str
    data: bytes | None = None


class Target:
    """The folder or bucket prefix of one export.

    Small files are written by a few threads; the ``with`` block waits for them. images_per_file: for formats that put
    many images into one file, None for a single file. protected: names of existing files that are not replaced.
    """

    def __init__(
        self,
        results: Results,
        uri: str,
        images_per_file: int | None = None,
        storage_options: StorageOptions | None = None,
        protected: Collection[str] = (),
    ) -> None:
        self.protected = protected
        self.results = results
        self.uri = uri.rstrip("/")
        self.images_per_file = images_per_file
        self._fs: AbstractFileSystem
        self._fs, self._root = open_filesystem(self.uri, storage_options)
        self._pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="export")
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._waiting_bytes = 0

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._waiting and kind is None:
            self._finish_one()
        self._pool.shutdown(cancel_futures=True)

    def path(self, name: str) -> str:
        """Return the file system path of ``name`` below the target."""
        return f"{self._root.rstrip('/')}/{name}"

    def _free_path(self, name: str) -> str:
        """Return the path of a file to write. Raises UsageError where a file of other origin has this name."""
        if name in self.protected:
            raise UsageError(
                f"{public_uri(self.uri)}/{name} is there and was not written by `maskmill export`; it is not replaced. "
                "Choose another place, or move it away"
            )
        return self.path(name)

    def has(self, name: str) -> bool:
        """Return whether an earlier export has written a file of this name."""
        return name not in self.protected and bool(self._fs.exists(self.path(name)))

    def write(self, name: str, data: bytes) -> None:
        """Queue a small file to be written by a thread. Raises the error of an earlier queued write."""
        while self._waiting and (self._waiting[0][0].done() or self._is_full(len(data))):
            self._finish_one()
        self._waiting.append((self._pool.submit(self._write, self._free_path(name), data), len(data)))
        self._waiting_bytes += len(data)

    def _is_full(self, more_bytes: int) -> bool:
        return len(self._waiting) >= WAITING_FILES or self._waiting_bytes + more_bytes > WAITING_BYTES

    def _finish_one(self) -> None:
        future, size = self._waiting.popleft()
        self._waiting_bytes -= size
        future.result()

    def _write(self, path: str, data: bytes) -> None:
        # Do not synchronise with the disk, as the files of a run are: an interrupted export is made again.
        if is_local(self._fs):
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        with_retries(lambda: self._fs.pipe_file(path, data))

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Queue a small JSON file to be written by a thread."""
        self.write(name, (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a large file to stream to; it appears when the block ends without an error."""
        with open_atomic(self._fs, self._free_path(name)) as stream:
            yield stream

    def parts(self, images: Iterator[LabelledImage]) -> Iterator[tuple[int, Iterator[LabelledImage]]]:
        """Divide the images into files: yield (0, images), (1, images), ...; each must be used up before the next.

        There is at least one part, which may be empty.
        """
        if self.images_per_file is None:
            yield 0, images
            return
        number = 0
        first = next(images, None)
        if first is None:
            yield 0, iter(())
        while first is not None:
            yield number, chain([first], islice(images, self.images_per_file - 1))
            number, first = number + 1, next(images, None)

    def part_name(self, name: str, number: int) -> str:
        """Return ``name`` ("a.json"), numbered ("a-00001.json") where there may be several files."""
        if self.images_per_file is None:
            return name
        stem, _, suffix = name.rpartition(".")
        return f"{stem}-{number:05d}.{suffix}"


class IndexFile:
    """A CSV that says which exported file belongs to which image; it is filled while images are exported."""

    COLUMNS = ("file", "image_id", "uri", "shard", "row")

    def __init__(self, stream: IO[bytes]) -> None:
        self._text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text)
        self._writer.writerow(self.COLUMNS)

    def add(self, file: str, image: LabelledImage) -> None:
        """Add one line."""
        self._writer.writerow([file, *(image.row[name] for name in self.COLUMNS[1:])])

    def close(self) -> None:
        """Flush the text and detach from the stream, which stays open."""
        self._text.detach()


@contextmanager
def index_file(target: Target, name: str = "index.csv") -> Iterator[IndexFile]:
    """Open the export's index, which appears when the block ends without an error."""
    with target.open(name) as stream:
        index = IndexFile(stream)
        yield index
        index.close()
