"""Turns big-endian BigTIFFs into classic TIFFs: Pillow (up to 13 at least) opens only little-endian BigTIFFs."""

from __future__ import annotations

import struct

from maskmill.pipeline.errors import BadImageError

BEGINNING = b"MM\x00+"
_HEADER = struct.Struct(">HHHQ")
_ENTRY = struct.Struct(">HHQ8s")
_MAX_ENTRIES = 4096
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Type of a value -> its size in bytes."""
_SHORTER_TYPES = {16: (4, ">{}Q", ">{}I"), 17: (9, ">{}q", ">{}i"), 18: (13, ">{}Q", ">{}I")}
"""Types of 8 bytes that classic TIFFs lack -> the type to use instead, and the formats that pack the two."""


def as_classic_tiff(data: bytes) -> bytes:
    """Return a classic TIFF of the first picture: its pixels stay in place, and the new directory comes last.

    Raises BadImageError "truncated" or "corrupt" where the directory cannot be read, "unsupported" beyond 4 GiB.
    """
    if len(data) >= 2**32:
        raise BadImageError("decode", "unsupported", "big-endian BigTIFF of 4 GiB or more")
    try:
        return _converted(data)
    except struct.error as error:
        raise BadImageError("decode", "truncated", f"TIFF: the directory is incomplete ({error})") from error


def _converted(data: bytes) -> bytes:
    *_, start = _HEADER.unpack_from(data, 2)
    (count,) = struct.unpack_from(">Q", data, start)
    if count > _MAX_ENTRIES:
        raise BadImageError("decode", "corrupt", f"TIFF: a directory of {count} entries")
    directory_at = len(data) + len(data) % 2
    values_at = directory_at + 2 + 12 * count + 4
    entries, values = [], b""
    for index in range(count):
        tag, kind, length, inline = _ENTRY.unpack_from(data, start + 8 + _ENTRY.size * index)
        if kind not in _SIZES:
            continue
        kind, packed = _value(data, kind, length, inline)
        if len(packed) > 4:
            place = struct.pack(">I", values_at + len(values))
            packed, values = place, values + packed + bytes(len(packed) % 2)
        entries.append(struct.pack(">HHI", tag, kind, length) + packed.ljust(4, b"\0"))
    # Entries of unknown types are left out, so a gap may remain between the directory and the values.
    directory = (struct.pack(">H", len(entries)) + b"".join(entries)).ljust(values_at - directory_at, b"\0")
    header = b"MM" + struct.pack(">HI", 42, directory_at)
    return header + data[len(header) :] + bytes(len(data) % 2) + directory + values


def _value(data: bytes, kind: int, length: int, inline: bytes) -> tuple[int, bytes]:
    """Return the type and the bytes of an entry's value in a classic TIFF."""
    size = _SIZES[kind] * length
    if size > len(data):
        raise BadImageError("decode", "corrupt", f"TIFF: a value of {size} bytes")
    offset = int.from_bytes(inline, "big")
    packed = inline[:size] if size <= len(inline) else data[offset : offset + size]
    if kind not in _SHORTER_TYPES:
        return kind, packed
    shorter, before, after = _SHORTER_TYPES[kind]
    return shorter, struct.pack(after.format(length), *struct.unpack(before.format(length), packed))
