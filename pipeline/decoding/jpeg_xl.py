"""Reads the size of a JPEG XL image from its first bytes; the plugin tells the size only after decoding all pixels."""

from __future__ import annotations

_BITS_OF_LARGE_SIDES = (9, 13, 18, 30)
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_SIGNATURE = b"\xff\x0a"
_HEADER_BYTES = 12


class _Bits:
    """Reads numbers of a given count of bits; the lowest bit of each byte comes first."""

    def __init__(self, data: bytes) -> None:
        self._rest = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        value = self._rest & ((1 << count) - 1)
        self._rest >>= count
        return value


def jpeg_xl_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) as stored, of a bare codestream or one in a container; None if there is no header."""
    stream = data[: len(_SIGNATURE) + _HEADER_BYTES] if data.startswith(_SIGNATURE) else _codestream(data)
    if not stream.startswith(_SIGNATURE):
        return None
    bits = _Bits(stream[len(_SIGNATURE) :])
    is_small = bool(bits.take(1))
    height = _side(bits, is_small)
    ratio = bits.take(3)
    if ratio == 0:
        return _side(bits, is_small), height
    numerator, denominator = _RATIOS[ratio]
    return height * numerator // denominator, height


def _side(bits: _Bits, is_small: bool) -> int:
    if is_small:
        return 8 * (bits.take(5) + 1)
    return 1 + bits.take(_BITS_OF_LARGE_SIDES[bits.take(2)])


def _codestream(data: bytes) -> bytes:
    """Return the first bytes of the codestream in a container: of its box jxlc, or of the first box jxlp."""
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        body = position + 8
        if size == 1:
            size = int.from_bytes(data[body : body + 8], "big")
            body += 8
        if kind in (b"jxlc", b"jxlp"):
            start = body + (4 if kind == b"jxlp" else 0)
            return data[start : start + len(_SIGNATURE) + _HEADER_BYTES]
        if size < 8:
            break
        position += size
    return b""
