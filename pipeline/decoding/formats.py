"""Recognises the format of encoded bytes by their beginning, so that errors can name it; file names do not count."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Literal

Kind = Literal["image", "video", "document", "archive", "markup"]


@dataclass(frozen=True, slots=True)
class Format:
    """A format of files. name: for messages. decoder: Pillow's name of the format, None if it is not decoded."""

    name: str
    kind: Kind = "image"
    decoder: str | None = None


_HEIF = Format("HEIC", decoder="HEIF")
_AVIF = Format("AVIF", decoder="AVIF")
_JPEG_XL = Format("JPEG XL", decoder="JXL")
_TIFF = Format("TIFF", decoder="TIFF")
_DIB = Format("DIB (a BMP without its file header)")
_TGA = Format("TGA")

# Where one beginning contains another, the longer one comes first.
_BEGINNINGS: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", Format("JPEG", decoder="JPEG")),
    (b"\x89PNG\r\n\x1a\n", Format("PNG", decoder="PNG")),
    (b"GIF87a", Format("GIF", decoder="GIF")),
    (b"GIF89a", Format("GIF", decoder="GIF")),
    (b"BM", Format("BMP", decoder="BMP")),
    (b"II*\x00\x10\x00\x00\x00CR", Format("Canon CR2 (raw)")),
    (b"II*\x00", _TIFF),
    (b"MM\x00*", _TIFF),
    (b"II+\x00", _TIFF),
    (b"MM\x00+", _TIFF),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", _JPEG_XL),
    (b"\xff\x0a", _JPEG_XL),
    (b"\x00\x00\x00\x0cjP  ", Format("JPEG 2000")),
    (b"\xff\x4f\xff\x51", Format("JPEG 2000")),
    (b"\x8aMNG\r\n\x1a\n", Format("MNG")),
    (b"\x8bJNG\r\n\x1a\n", Format("JNG")),
    (b"icns", Format("ICNS")),
    (b"8BPS", Format("PSD (Photoshop)")),
    (b"gimp xcf", Format("XCF (GIMP)")),
    (b"DDS ", Format("DDS")),
    (b"qoif", Format("QOI")),
    (b"FLIF", Format("FLIF")),
    (b"BPG\xfb", Format("BPG")),
    (b"II\xbc\x01", Format("JPEG XR")),
    (b"AT&TFORM", Format("DjVu", "document")),
    (b"\x76\x2f\x31\x01", Format("OpenEXR")),
    (b"#?RADIANCE", Format("Radiance HDR")),
    (b"#?RGBE", Format("Radiance HDR")),
    (b"SIMPLE  =", Format("FITS")),
    (b"\x01\xda", Format("SGI")),
    (b"\x59\xa6\x6a\x95", Format("Sun raster")),
    (b"\xd7\xcd\xc6\x9a", Format("WMF")),
    (b"/* XPM */", Format("XPM")),
    (b"BLP1", Format("BLP")),
    (b"BLP2", Format("BLP")),
    (b"IIRO", Format("Olympus ORF (raw)")),
    (b"IIRS", Format("Olympus ORF (raw)")),
    (b"MMOR", Format("Olympus ORF (raw)")),
    (b"IIU\x00", Format("Panasonic RW2 (raw)")),
    (b"FUJIFILMCCD-RAW", Format("Fujifilm RAF (raw)")),
    (b"FOVb", Format("Sigma X3F (raw)")),
    (b"\x00MRM", Format("Minolta MRW (raw)")),
    (b"%PDF", Format("PDF", "document")),
    (b"%!PS", Format("EPS or PostScript", "document")),
    (b"\xc5\xd0\xd3\xc6", Format("EPS or PostScript", "document")),
    (b"\x1a\x45\xdf\xa3", Format("WebM or Matroska video", "video")),
    (b"\x00\x00\x01\xba", Format("MPEG video", "video")),
    (b"\x00\x00\x01\xb3", Format("MPEG video", "video")),
    (b"FLV\x01", Format("Flash video", "video")),
    (b"OggS", Format("Ogg video or sound", "video")),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Format("Windows Media video", "video")),
    (b"\x1f\x8b", Format("gzip data", "archive")),
    (b"PK\x03\x04", Format("zip archive", "archive")),
    (b"7z\xbc\xaf\x27\x1c", Format("7z archive", "archive")),
    (b"Rar!\x1a\x07", Format("RAR archive", "archive")),
)
_RIFF = {
    b"WEBP": Format("WebP", decoder="WEBP"),
    b"AVI ": Format("AVI video", "video"),
}
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), _AVIF),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), _HEIF),
    b"crx ": Format("Canon CR3 (raw)"),
    b"jxl ": _JPEG_XL,
    b"jp2 ": Format("JPEG 2000"),
}
_QUICKTIME_ATOMS = (b"moov", b"mdat", b"wide", b"skip")
_ICONS = {b"\x00\x00\x01\x00": Format("ICO"), b"\x00\x00\x02\x00": Format("CUR (a cursor)")}
"""The next two bytes hold the number of pictures, which is not zero; a TGA may begin alike, with zero there."""
_DIB_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
_BITS_PER_PIXEL = (1, 4, 8, 16, 24, 32)
_MAX_BRANDS_BYTES = 256


def recognise(data: bytes) -> Format | None:
    """Return the format of ``data``, None if no known image, video, document or archive begins so."""
    for magic, found in _BEGINNINGS:
        if data.startswith(magic):
            return found
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12])
    if data[4:8] == b"ftyp":
        return _iso_media(data)
    if data[4:8] in _QUICKTIME_ATOMS:
        return Format("QuickTime video", "video")
    return _markup(data) or _without_magic(data)


def _iso_media(data: bytes) -> Format:
    """Return the format of an ISO media file, by its major brand, then by the brands that it is compatible with."""
    size = min(int.from_bytes(data[:4], "big"), _MAX_BRANDS_BYTES, len(data))
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, size - 3, 4))]
    known = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    if known:
        return known[0]
    if brands[0] in (b"mif1", b"msf1", b"miaf"):
        return _HEIF
    return Format(f"MP4 or QuickTime video (brand {brands[0].decode('ascii', 'replace').strip()!r})", "video")


def _markup(data: bytes) -> Format | None:
    head = data[:1024]
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"", "latin-1")):
        if head.startswith(mark):
            text = head.decode(encoding, "replace").lstrip("\ufeff\xef\xbb\xbf \t\r\n")
            break
    if not text.startswith("<"):
        return None
    return Format("SVG") if re.search(r"<(\w+:)?svg[\s>/]", text) else Format("XML or HTML", "markup")


def _without_magic(data: bytes) -> Format | None:
    """Recognise formats without a distinctive beginning, by several fields that must fit together."""
    if data[128:132] == b"DICM":
        return Format("DICOM")
    if data[:4] == b"\x01\x00\x00\x00" and data[40:44] == b" EMF":
        return Format("EMF")
    if re.match(rb"P[1-7][\s#]", data):
        return Format("PNM (PBM, PGM, PPM, PAM)")
    if re.match(rb"#define\s+\w+_width\s", data):
        return Format("XBM")
    if len(data) >= 128 and data[0] == 10 and data[1] in (0, 2, 3, 4, 5) and data[2] == 1 and data[3] in (1, 2, 4, 8):
        return Format("PCX")
    if data[:4] in _ICONS and any(data[4:6]):
        return _ICONS[data[:4]]
    if _is_dib(data):
        return _DIB
    return _TGA if _is_tga(data) else None


def _is_dib(data: bytes) -> bool:
    if len(data) < 40:
        return False
    (size,) = struct.unpack_from("<I", data)
    width, height, planes, bits = struct.unpack_from("<HHHH" if size == 12 else "<iiHH", data, 4)
    return size in _DIB_HEADER_SIZES and planes == 1 and bits in _BITS_PER_PIXEL and width > 0 and height != 0


def _is_tga(data: bytes) -> bool:
    if data.endswith(b"TRUEVISION-XFILE.\x00"):
        return True
    if len(data) < 19:
        return False
    id_length, map_type, image_type = data[:3]
    map_length, map_bits = struct.unpack_from("<HB", data, 5)
    width, height, bits, descriptor = struct.unpack_from("<HHBB", data, 12)
    if map_type > 1 or image_type not in (1, 2, 3, 9, 10, 11) or bits not in (8, 15, 16, 24, 32) or not width * height:
        return False
    if map_type != (image_type in (1, 9)) or descriptor & 0xC0 or (map_type == 0 and (map_length or map_bits)):
        return False
    pixels_at = 18 + id_length + map_length * ((map_bits + 7) // 8)
    # Uncompressed pixels must be there; run-length packets take at least a byte and a pixel for each 128 pixels.
    least = width * height * ((bits + 7) // 8) if image_type < 8 else 2 * (-(-width * height // 128))
    return len(data) >= pixels_at + least


def ends_early(data: bytes) -> bool:
    """Return whether the header of a WebP, HEIC, AVIF or JPEG XL file tells that the file is longer than ``data``."""
    if data[:4] == b"RIFF":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if data[4:8] not in (b"ftyp", b"JXL "):
        return False
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if size == 0:
            return False
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        position += max(size, 8)
    return position > len(data)


_JPEG_PROCESSES = {
    0xC3: "lossless JPEG",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical JPEG"),
    0xCB: "lossless JPEG (arithmetic)",
    0xF7: "JPEG-LS",
}
_JPEG_BITS = 8


def jpeg_variant(data: bytes) -> str | None:
    """Return the name of this kind of JPEG if it is a kind that common decoders do not read, else None."""
    position = 2
    while position + 9 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0xDA:
            return None
        if marker in _JPEG_PROCESSES:
            return _JPEG_PROCESSES[marker]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits = data[position + 4]
            return None if bits == _JPEG_BITS else f"JPEG of {bits} bits a sample"
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None
