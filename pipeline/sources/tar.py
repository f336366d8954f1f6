"""Reads images out of WebDataset tars, one member at a time, and notices every way in which an archive can end early.

`tarfile` takes a damaged header and a missing end for the end of the archive; here each is damage. Members are never
extracted: their names are only ever text.
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
"""Longest extended header (long names, pax records) we accept; real ones have a few hundred bytes."""
_MAX_PADDING_BYTES = 32 * 2**20
"""Most zeros after the end mark. Twice GNU tar's largest record: more is a file whose space was never written."""
_PIECE_BYTES = 2**20


class _ForwardStream:
    """The side of a file that `tarfile` sees: leaving it, going back or asking for too much are damage.

    size: of the file in bytes, None where only reading tells.
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
            # Not left to the system, which refuses to go very far with an error like any other.
            raise DamagedError(f"truncated archive: a member reaches to byte {offset} of {self._size}")
        return self._stream.seek(offset)

    def peek_block(self) -> bytes:
        """Return the next 512 bytes, fewer only at the end of the file, and leave them to be read."""
        self._peeked = _read_up_to(self._stream, tarfile.BLOCKSIZE)
        return self._peeked

    def read(self, size: int = tarfile.BLOCKSIZE) -> bytes:
        if size > _MAX_HEADER_BYTES:
            raise DamagedError(f"an extended header claims {size} bytes")
        first, self._peeked = self._peeked[:size], self._peeked[size:]
        return first + _read_up_to(self._stream, size - len(first))


def _read_up_to(stream: IO[bytes], size: int) -> bytes:
    """Return ``size`` bytes, fewer only at the end of the file (a raw stream may return fewer before)."""
    data = stream.read(size)
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            break
        data += more
    return data


class _StrictTarFile(tarfile.TarFile):
    """A TarFile whose `next` returns None at a proper end mark only."""

    firstmember: tarfile.TarInfo | None

    def __init__(self, stream: _ForwardStream) -> None:
        self._blocks = stream
        self._ended = False
        super().__init__(fileobj=stream, mode="r")  # type: ignore[arg-type]

    def next(self) -> tarfile.TarInfo | None:
        """Return the next member and forget it, so that memory does not grow with the archive."""
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
            # The parser of extended headers lets plain Python errors through on nonsense.
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

    With segmentation, ``x.seg.png`` right before or after ``x.jpg`` goes with it. With ``segmentations`` instead, the
    rows are the ``x.seg.png`` themselves, whether or not their images are in the archive. A member that cannot be used
    (a link or device with an image's name, no data, too large) is a record with an error. Raises DamagedError where
    the archive is truncated or corrupt, after yielding every whole image before that point.
    """
    if segmentations:
        members = enumerate(_members(stream, limits, _is_segmentation))
        return (_record(member, uri, row, segmentation_key(member[0]) or "") for row, member in members)
    return _join(_members(stream, limits, _is_either if with_segmentation else is_image_name), uri)


def count_tar_rows(stream: IO[bytes], *, segmentations: bool = False) -> int:
    """Return how many rows `read_tar` would yield, reading headers only (all of the data if compressed)."""
    return sum(1 for _ in read_tar(stream, "", HEADERS_ONLY, segmentations=segmentations))


Member = tuple[str, bytes | None, BadImageError | None]
"""Name, data and error of a member."""


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
    """Read what follows the first block of the end mark, which must be zeros: else images behind it would be lost."""
    padding = 0
    while piece := stream.read(_PIECE_BYTES):
        if piece.count(0) != len(piece):
            raise DamagedError("data after the end mark: a damaged archive, or several archives in one file")
        padding += len(piece)
        if padding > _MAX_PADDING_BYTES:
            raise DamagedError(f"more than {_MAX_PADDING_BYTES} zero bytes after the end mark: not written to its end")


def _join(members: Iterator[Member], uri: str) -> Iterator[ImageRecord]:
    """Number the images and attach segmentations, which may come directly before or after their image."""
    waiting: Member | None = None
    label: tuple[str, bytes] | None = None
    row = 0
    damage: DamagedError | None = None
    while damage is None:
        try:
            member = next(members, None)
        except DamagedError as error:
            # The image before the damage is whole and still to be yielded.
            member, damage = None, error
        key = None if member is None else segmentation_key(member[0])
        if key is not None and member is not None and member[1] is None:
            continue  # an unusable segmentation is none; its image is as good as any other
        if key is not None and member is not None and (waiting is None or image_key(waiting[0]) == key):
            label = (key, member[1] or b"")
            continue
        if waiting is not None:
            own_key = image_key(waiting[0])
            own_label = label[1] if label is not None and label[0] == own_key else None
            yield _record(waiting, uri, row, own_key, own_label)
            waiting, row = None, row + 1
        if member is None:
            break
        if key is None:
            waiting = member
        else:
            label = (key, member[1] or b"")
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
