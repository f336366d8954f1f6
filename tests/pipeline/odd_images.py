"""Makes the image files that Pillow does not write: TIFFs of any samples, PNGs chunk by chunk, colour profiles."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
SMOOTH = np.full((20, 30, 3), 90, dtype=np.uint8)
SMOOTH[..., 0], SMOOTH[..., 1] = np.arange(0, 240, 8)[None, :], np.arange(0, 240, 12)[:, None]


def encoded(image: Image.Image | np.ndarray, file_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(stream, file_format, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes, damage: int = 0) -> bytes:
    """One PNG chunk. damage: changes the checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ damage)


def png(
    width: int, height: int, colour_type: int, bits: int, rows: bytes, extra: bytes = b"", damage: bytes = b""
) -> bytes:
    """A PNG by hand. extra: chunks before the pixels; damage: the kind of the chunk whose checksum is wrong."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows), damage == b"IDAT")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header, damage == b"IHDR") + extra + pixels + chunk(b"IEND", b"")


def rgb_png(pixels: np.ndarray, extra: bytes = b"", damage: bytes = b"") -> bytes:
    """A PNG of (H, W, 3) uint8 or uint16."""
    height, width, _ = pixels.shape
    bits = pixels.dtype.itemsize * 8
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in pixels)
    return png(width, height, 2, bits, rows, extra, damage)


Entry = tuple[int, int, list[Any]]
"""Tag, type (3: short, 4: long, 11: float, 16: long of 8 bytes) and values of a TIFF."""
_TYPES = {1: "B", 3: "H", 4: "I", 11: "f", 16: "Q"}


def tiff(
    samples: np.ndarray,
    order: str = "<",
    *,
    big: bool = False,
    photometric: int | None = None,
    extra: list[Entry] = (),  # type: ignore[assignment]
) -> bytes:
    """An uncompressed TIFF of one strip of (H, W) or (H, W, C) samples. big: a BigTIFF. order: "<" or ">"."""
    height, width, *rest = samples.shape
    bands = rest[0] if rest else 1
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    colour = photometric if photometric is not None else 2 if bands == 3 else 1
    entries: list[Entry] = [
        (256, 3, [width]),
        (257, 3, [height]),
        (258, 3, [samples.dtype.itemsize * 8] * bands),
        (259, 3, [1]),
        (262, 3, [colour]),
        (273, 4, [16]),
        (277, 3, [bands]),
        (278, 3, [height]),
        (279, 4, [len(data)]),
        (339, 3, [kind] * bands),
    ]
    tags = {tag: (tag, form, values) for tag, form, values in [*entries, *extra]}
    return assembled(data, sorted(tags.values()), order, big)


def assembled(data: bytes, entries: list[Entry], order: str, big: bool = False) -> bytes:
    """A TIFF whose pixels stand at byte 16, followed by its directory and the values that do not fit into it."""
    offset, count = ("Q", "Q") if big else ("I", "H")  # of a value, of the entries
    inline = 8 if big else 4
    directory_at = 16 + len(data)
    entry_size = 4 + 2 * inline
    values_at = directory_at + struct.calcsize(f"{order}{count}") + entry_size * len(entries) + inline
    directory, values = struct.pack(f"{order}{count}", len(entries)), b""
    for tag, form, numbers in entries:
        packed = struct.pack(f"{order}{len(numbers)}{_TYPES[form]}", *numbers)
        if len(packed) > inline:
            packed, values = struct.pack(f"{order}{offset}", values_at + len(values)), values + packed
        directory += struct.pack(f"{order}HH{offset}", tag, form, len(numbers)) + packed.ljust(inline, b"\0")
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}HHHQ", 43, 8, 0, directory_at) if big else struct.pack(f"{order}HI", 42, directory_at)
    return (mark + head).ljust(16, b"\0") + data + directory + bytes(inline) + values


D50 = (0.9642, 1.0, 0.8249)
P3_TO_XYZ = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
"""Columns: the primaries of Display P3 in XYZ of D50 (Apple's profile)."""


def _number(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: Any) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_number(value) for value in values)


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"


def profile(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile of version 2 with these tags, a description and a white point."""
    text = b"test\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"wtpt": _xyz(D50),
        b"cprt": b"text\0\0\0\0none\0",
        **tags,
    }
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = (
        struct.pack(">I4sI4s4s4s", at + len(body), b"none", 0x02400000, kind, space, connection) + bytes(12) + b"acsp"
    )
    return (head + bytes(28) + b"".join(map(_number, D50))).ljust(128, b"\0") + table + body


def rgb_profile(to_xyz: np.ndarray = P3_TO_XYZ, gamma: float = 2.2) -> bytes:
    columns = {b"rXYZ": _xyz(to_xyz[:, 0]), b"gXYZ": _xyz(to_xyz[:, 1]), b"bXYZ": _xyz(to_xyz[:, 2])}
    return profile(b"RGB ", {**columns, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(gamma))})


def grey_profile(gamma: float) -> bytes:
    return profile(b"GRAY", {b"kTRC": _gamma(gamma)})


def cmyk_profile() -> bytes:
    """A press whose only ink is black: lightness is 100 less what K takes, colours have no hue."""
    corners = np.indices((2, 2, 2, 2)).reshape(4, -1).T
    lab = b"".join(bytes((0 if k else 255, 128, 128)) for _, _, _, k in corners)
    ramp = bytes(range(256))
    matrix = b"".join(_number(value) for value in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + ramp * 4 + lab + ramp * 3
    return profile(b"CMYK", {b"A2B0": table}, kind=b"prtr", connection=b"Lab ")


def profile_chunk(icc: bytes) -> bytes:
    return chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc))


def lossless_jpeg(frame: int = 0xC3, bits: int = 8) -> bytes:
    """A JPEG of 16 x 16 grey samples that all equal their prediction; frame: marker of the process."""
    start = b"\xff" + bytes([frame]) + struct.pack(">HBHHB3B", 11, bits, 16, 16, 1, 1, 0x11, 0)
    table = b"\xff\xc4" + struct.pack(">HB", 2 + 1 + 16 + 1, 0) + bytes([1] + [0] * 15) + b"\0"
    scan = b"\xff\xda" + struct.pack(">HBBB3B", 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8" + start + table + scan + bytes(32) + b"\xff\xd9"


def tga() -> bytes:
    """An uncompressed TGA of version 1, which has nothing that begins or ends all TGAs."""
    return struct.pack("<3B5s4H2B", 0, 0, 2, bytes(5), 0, 0, 30, 20, 24, 0) + PIXELS.tobytes()


def bitmap_with_alpha(pixels: np.ndarray) -> bytes:
    """A BMP of 32 bits with a mask for alpha (a header of version 5), of (H, W, 4) uint8."""
    height, width, _ = pixels.shape
    data = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = (0x00FF0000, 0x0000FF00, 0x000000FF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 32, 3, len(data), 0, 0, 0, 0)
    header = (header + struct.pack("<4I4s", *masks, b"BGRs")).ljust(124, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + 124 + len(data), 0, 0, 14 + 124) + header + data
