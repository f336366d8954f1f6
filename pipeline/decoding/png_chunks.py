"""Removes chunks of a PNG that its pixels do not need: a large or damaged text chunk would make Pillow refuse it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from maskmill.pipeline.errors import BadImageError

_SIGNATURE_BYTES = 8
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS")
_MAX_METADATA_BYTES = 2**20
"""Pillow's limit on the size of an unpacked text or profile. Beyond it Pillow refuses the whole image."""
_KEYWORD_BYTES = 80
_ORIENTATION_TEXTS = (b"Raw profile type exif\x00", b"Raw profile type APP1\x00", b"XML:com.adobe.xmp\x00")


def pixel_chunks(data: bytes) -> bytes:
    """Return the PNG with the chunks that pixels, orientation and colours depend on, and no other.

    Returns ``data`` itself if no chunk is left out. An animation becomes its still image. Raises BadImageError
    "corrupt" where the checksum of a chunk that holds pixels is wrong, "unsupported" for Apple's own kind of PNG.
    """
    view = memoryview(data)
    kept: list[memoryview] = [view[:_SIGNATURE_BYTES]]
    for start, stop in _chunks(data):
        kind = bytes(view[start + 4 : start + 8])
        if kind == b"CgBI":
            raise BadImageError("decode", "unsupported", "PNG in Apple's own variant (CgBI)")
        if stop > len(data):
            kept.append(view[start:])
        elif kind in _PIXEL_CHUNKS:
            if not _checksum_is_right(view, start, stop):
                name = kind.decode("ascii")
                raise BadImageError("decode", "corrupt", f"wrong checksum of the chunk {name} at byte {start}")
            kept.append(view[start:stop])
        elif _is_useful(kind, view[start + 8 : stop - 4]) and _checksum_is_right(view, start, stop):
            kept.append(view[start:stop])
    return data if sum(len(each) for each in kept) == len(data) else b"".join(kept)


def _chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each chunk starts and stops, up to the end mark; the last chunk may stop beyond the data."""
    start = _SIGNATURE_BYTES
    while start < len(data):
        stop = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield start, stop
        if data[start + 4 : start + 8] == b"IEND":
            return
        start = stop


def _checksum_is_right(view: memoryview, start: int, stop: int) -> bool:
    return zlib.crc32(view[start + 4 : stop - 4]) == int.from_bytes(view[stop - 4 : stop], "big")


def _is_useful(kind: bytes, body: memoryview) -> bool:
    """Return whether a chunk holds orientation or colours, and is small enough for Pillow to read it."""
    if kind == b"eXIf":
        return len(body) <= _MAX_METADATA_BYTES
    if kind == b"iCCP":
        return _expands_to_little(bytes(body).partition(b"\x00")[2][1:])
    if kind not in (b"tEXt", b"zTXt", b"iTXt") or not bytes(body[:_KEYWORD_BYTES]).startswith(_ORIENTATION_TEXTS):
        return False
    text = bytes(body).partition(b"\x00")[2]
    if kind == b"zTXt":
        return _expands_to_little(text[1:])
    if kind == b"iTXt" and text[:1] == b"\x01":
        # Two bytes tell how the text is packed; then come a language and a translated keyword, each ending in a zero.
        return _expands_to_little(text[2:].split(b"\x00", 2)[-1])
    return len(text) <= _MAX_METADATA_BYTES


def _expands_to_little(packed: bytes) -> bool:
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, _MAX_METADATA_BYTES)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail
