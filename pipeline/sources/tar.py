"""Reads images out of WebDataset tars, one member at a time, and notices every way in which an archive can end early.

`tarfile` takes a damaged header or a missing end mark for the end of the archive; here both are damage. Members are
never extracted to files: their names are used as text only.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.sources.shard import (
    DEFAULT_LIMITS,
    HEADERS_ONLY,
    DamagedError,
    ImageRecord,
    ReadLimits,
    image_key,
    is_image_name,
    printable,
    segmentation_key,
    too_large,
)

_MAX_HEADER_BYTES = 2**20
"""The longest extended header (long names, pax records) that is accepted; real ones have a few hundred bytes."""
_MAX_PADDING_BYTES = 32 * 2**20
"""At most so many zeros may follow the end mark: twice GNU tar's largest record. More zeros are space never written."""
_PIECE_BYTES = 2**20


class _ForwardStream:
    """The stream that `tarfile` reads from. Seeking back, seeking past the end or reading too much raises DamagedError.

    size: of the file in bytes, None where the size is not known before the end is reached.
    """

    def __init__(self, stream: IO[bytes], size: int | None) -> None:
        self._stream = stream
        self._peeked = b""
        self._size = size

    def tell(self) -> int:
        return self._stream.tell() - len(self._peeked)

    def seek(self, offset: int) -> int:
        if offset < self._stream.tell():
            raise DamagedError(f"the archive points backwards, to byte {offset}")
        if self._size is not None and offset > self._size:
            # Check here: seeking past the end raises a plain OSError, which would be retried.
            raise DamagedError(f"truncated archive: a member reaches to byte {offset} of {self._size}")
        return self._stream.seek(offset)

    def peek_block(self) -> bytes:
        """Return the next 512 bytes, fewer only at the end of the file; `read` returns the same bytes again."""
        self._peeked = _read_up_to(self._stream, tarfile.BLOCKSIZE)
        return self._peeked

    def read(self, size: int = tarfile.BLOCKSIZE) -> bytes:
        if size > _MAX_HEADER_BYTES:
            raise DamagedError(f"an extended header claims {size} bytes")
        first, self._peeked = self._peeked[:size], self._peeked[size:]
        return first + _read_up_to(self._stream, size - len(first))


def _read_up_to(stream: IO[bytes], size: int) -> bytes:
    """Return ``size`` bytes, fewer only at the end of the file; a single read of a raw stream may return fewer."""
    data = stream.read(size)
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            break
        data += more
    return data


class _StrictTarFile(tarfile.TarFile):
    """A TarFile whose `next` returns None at an end mark only; where else the archive ends, it raises DamagedError."""

    firstmember: tarfile.TarInfo | None

    def __init__(self, stream: _ForwardStream) -> None:
        self._blocks = stream
        self._ended = False
        super().__init__(fileobj=stream, mode="r")  # type: ignore[arg-type]

    def next(self) -> tarfile.TarInfo | None:
        """Return the next member, and keep no list of members, so that memory does not grow with the archive."""
        if self.firstmember is not None:
            member, self.firstmember = self.firstmember, None
            return member
        if self._ended:
            return None
        start = self.offset
        self._blocks.seek(start)
        block = self._blocks.peek_block()
        if not block:
            what = "the file is empty" if start == 0 else f"it ends at byte {start} without an end mark"
            raise DamagedError(f"truncated archive: {what}")
        if len(block) < tarfile.BLOCKSIZE:
            raise DamagedError(f"truncated archive: it ends inside a header at byte {start}")
        if block.count(0) == len(block):
            self._ended = True
            return None
        try:
            member = self.tarinfo.fromtarfile(self)
        except (tarfile.TarError, ValueError, LookupError, OverflowError, TypeError, RecursionError) as error:
            # On nonsense, the parser of extended headers raises plain Python errors.
            raise DamagedError(f"corrupt header at byte {start}: {error}") from error
        if member.size < 0 or self.offset <= start:
            raise DamagedError(f"corrupt header at byte {start}: impossible size")
        return member


def read_tar(
    stream: IO[bytes],
    uri: str,
    limits: ReadLimits = DEFAULT_LIMITS,
    *,
    with_segmentation: bool = False,
    segmentations: bool = False,
) -> Iterator[ImageRecord]:
    """Yield the images of a tar (plain or gzip) in archive order, two members of one name as two rows.

    with_segmentation: ``x.seg.png`` directly before or after ``x.jpg`` becomes its segmentation. segmentations: the
    rows are the ``x.seg.png`` themselves, whether or not their images are in the archive. A member that cannot be
    used (a link or device with an image's name, no data, too large) is a record with an error. Raises DamagedError
    where the archive is truncated or corrupt, after yielding every whole image before that point.
    """
    if segmentations:
        members = enumerate(_members(stream, limits, _is_segmentation))
        return (_record(member, uri, row, segmentation_key(member[0]) or "") for row, member in members)
    return _images(_members(stream, limits, _is_either if with_segmentation else is_image_name), uri)


def count_tar_rows(stream: IO[bytes], *, segmentations: bool = False) -> int:
    """Return how many rows `read_tar` would yield, reading headers only (all of the data if compressed)."""
    return sum(1 for _ in read_tar(stream, "", HEADERS_ONLY, segmentations=segmentations))


Member = tuple[str, bytes | None, BadImageError | None]
"""Name, data and error of an archive member; data or error is None."""


def _is_segmentation(name: str) -> bool:
    return segmentation_key(name) is not None


def _is_either(name: str) -> bool:
    return is_image_name(name) or _is_segmentation(name)


def _members(stream: IO[bytes], limits: ReadLimits, is_wanted: Callable[[str], bool]) -> Iterator[Member]:
    """Yield every member whose name is wanted."""
    try:
        magic = stream.read(2)
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if magic == b"\x1f\x8b":
            unzipped: IO[bytes] = gzip.GzipFile(fileobj=stream)  # type: ignore[assignment]
            yield from _plain_members(unzipped, None, limits, is_wanted)
        else:
            yield from _plain_members(stream, size, limits, is_wanted)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedError(f"truncated or corrupt gzip data: {error}") from error


def _plain_members(
    stream: IO[bytes], size: int | None, limits: ReadLimits, is_wanted: Callable[[str], bool]
) -> Iterator[Member]:
    archive = _StrictTarFile(_ForwardStream(stream, size))
    while (member := archive.next()) is not None:
        if member.isdir() or not is_wanted(member.name):
            continue
        error = _unusable(member, limits)
        yield member.name, None if error else _member_data(stream, member), error
    _check_end(stream)


def _unusable(member: tarfile.TarInfo, limits: ReadLimits) -> BadImageError | None:
    if member.issym() or member.islnk():
        return BadImageError("read", "link", "the archive member is a link; links are never followed")
    if not member.isreg() or member.issparse():
        return BadImageError("read", "not_a_file", "the archive member is no regular file")
    if member.size == 0:
        return BadImageError("read", "empty", "the archive member has no data")
    if member.size > limits.max_image_bytes:
        return too_large(member.size, limits)
    return None


def _member_data(stream: IO[bytes], member: tarfile.TarInfo) -> bytes:
    stream.seek(member.offset_data)
    data = _read_up_to(stream, member.size)
    if len(data) < member.size:
        raise DamagedError(
            f"truncated archive: {printable(member.name)!r} has {len(data)} of {member.size} bytes at its end"
        )
    return data


def _check_end(stream: IO[bytes]) -> None:
    """Raise DamagedError unless only zeros follow the end mark: images after it would be lost without a word."""
    padding = 0
    while piece := stream.read(_PIECE_BYTES):
        if piece.count(0) != len(piece):
            raise DamagedError("data after the end mark: a damaged archive, or several archives in one file")
        padding += len(piece)
        if padding > _MAX_PADDING_BYTES:
            raise DamagedError(f"more than {_MAX_PADDING_BYTES} zero bytes after the end mark: not written to its end")


def _images(members: Iterator[Member], uri: str) -> Iterator[ImageRecord]:
    """Number the images of an archive, each with the segmentation that goes with it."""
    for row, (image, segmentation) in enumerate(_with_segmentations(members)):
        yield _record(image, uri, row, image_key(image[0]), segmentation)


def _with_segmentations(members: Iterator[Member]) -> Iterator[tuple[Member, bytes | None]]:
    """Yield every image with the segmentation of the same key that comes directly before or after it, if any.

    An image is held back until the next member shows whether a segmentation follows. Where the archive is damaged, the
    image held back is yielded before the damage is raised, since that image is whole.
    """
    waiting: Member | None = None
    latest: tuple[str, bytes] | None = None  # the last segmentation seen: the key of its image, and its data
    damage: DamagedError | None = None

    def completed(image: Member) -> tuple[Member, bytes | None]:
        if latest is not None and latest[0] == image_key(image[0]):
            return image, latest[1]
        return image, None

    try:
        for member in members:
            name, data, _ = member
            key = segmentation_key(name)
            if key is None:
                if waiting is not None:
                    yield completed(waiting)
                waiting = member
            elif data is not None:  # an unusable segmentation counts as none
                if waiting is not None and image_key(waiting[0]) != key:
                    yield completed(waiting)
                    waiting = None
                latest = (key, data)
    except DamagedError as error:
        damage = error
    if waiting is not None:
        yield completed(waiting)
    if damage is not None:
        raise damage


def _record(member: Member, uri: str, row: int, key: str, segmentation: bytes | None = None) -> ImageRecord:
    name, data, error = member
    return ImageRecord(
        image_id=key,
        uri=f"{uri}#{printable(name)}",
        row=row,
        data=data,
        error=error,
        segmentation=segmentation,
    )
