"""Writes label maps in formats that Pillow can read but does not write, sample by sample."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def packed(labels: np.ndarray, bits: int) -> list[bytes]:
    """The rows of an (H, W) map, each sample in ``bits`` bits, the first sample in the highest ones."""
    if bits == 16:
        return [row.astype(">u2").tobytes() for row in labels]
    places = np.arange(bits - 1, -1, -1)
    return [np.packbits((row[:, None] >> places & 1).astype(np.uint8).ravel()).tobytes() for row in labels]


def grey_png(labels: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 1, 2, 4, 8 or 16 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], bits, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row for row in packed(labels, bits))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def grey_tiff(labels: np.ndarray, bits: int, *, zero_is_white: bool = False, big_endian: bool = False) -> bytes:
    """Return an uncompressed grey TIFF; ``zero_is_white`` changes how it is shown, but not the stored samples."""
    order = ">" if big_endian else "<"
    data = labels.astype("<u2").tobytes() if bits == 16 and not big_endian else b"".join(packed(labels, bits))
    tags = [
        (256, labels.shape[1]),
        (257, labels.shape[0]),
        (258, bits),
        (259, 1),
        (262, 0 if zero_is_white else 1),
        (273, 8),
        (277, 1),
        (278, labels.shape[0]),
        (279, len(data)),
    ]
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)
    return (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{order}I", 8 + len(data)) + data + directory


def palette_file(labels: np.ndarray, file_format: str, bits: int = 8) -> bytes:
    """Return a palette image whose colours do not follow from its indices."""
    picture = Image.fromarray(labels.astype(np.uint8), "P")
    picture.putpalette([value * 37 % 256 for value in range(3 * 2**bits)])
    sink = io.BytesIO()
    picture.save(sink, file_format, **{"PNG": {"bits": bits}, "GIF": {"optimize": False}}.get(file_format, {}))
    return sink.getvalue()


def bilevel_file(labels: np.ndarray, file_format: str, **settings: str) -> bytes:
    """Return a map of zeros and ones as an image of one bit."""
    sink = io.BytesIO()
    Image.fromarray(labels.astype(bool)).save(sink, file_format, **settings)
    return sink.getvalue()
