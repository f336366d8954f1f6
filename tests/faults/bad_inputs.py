"""Bad and odd inputs by the thousand: images of every kind and damage, and tars and Parquet files that are broken.

Everything follows from a seed. A container is described by the rows that must come out of it (``Container.rows``: image
ids) and by whether it ends in damage, which is one more row.
"""

from __future__ import annotations

import io
import random
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WHOLE = "whole"
"""Prefix of the names of images that must be labelled; of all others, either may happen."""
HOPELESS = "hopeless"
"""Prefix of the names of images that cannot but fail."""


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def picture(rng: np.random.Generator, width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    """Noise over a gradient in any of Pillow's modes."""
    pixels = np.linspace(0, 200, width)[None, :, None] + rng.integers(0, 56, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def oddities(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Images that are rare and whole."""
    rgb = picture(rng)
    for size in ((1, 1), (1, 20_000), (20_000, 1), (3, 2), (700, 500)):
        yield f"{WHOLE}-{size[0]}x{size[1]}.png", encode(Image.new("RGB", size, (200, 30, 90)), "PNG")
    yield f"{WHOLE}-cmyk.jpg", encode(rgb.convert("CMYK"), "JPEG")
    yield f"{WHOLE}-grey.jpg", encode(rgb.convert("L"), "JPEG")
    deep = Image.fromarray(rng.integers(0, 2**16, (20, 30), dtype=np.uint16))
    yield f"{WHOLE}-16-bit.png", encode(deep, "PNG")
    yield f"{WHOLE}-16-bit.tif", encode(deep, "TIFF")
    yield f"{WHOLE}-palette.png", encode(rgb.convert("P"), "PNG")
    yield f"{WHOLE}-palette.gif", encode(rgb.convert("P"), "GIF")
    yield f"{WHOLE}-bilevel.tif", encode(rgb.convert("1"), "TIFF", compression="group4")
    for mode in ("RGBA", "LA"):
        yield f"{WHOLE}-{mode.lower()}.png", encode(picture(rng, mode=mode), "PNG")
    frames = [picture(rng) for _ in range(3)]
    for kind, suffix in (("GIF", "gif"), ("WEBP", "webp"), ("PNG", "png"), ("TIFF", "tif")):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        yield f"{WHOLE}-animated-{kind.lower()}.{suffix}", data
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"{WHOLE}-exif-{orientation}.jpg", encode(rgb, "JPEG", exif=exif)
    yield f"{WHOLE}-progressive.jpg", encode(rgb, "JPEG", progressive=True)
    # libjpeg has the arithmetic coder but Pillow cannot write with it; so the data is nonsense, and decodes.
    yield "arithmetic.jpg", encode(rgb, "JPEG").replace(b"\xff\xc0", b"\xff\xc9", 1)
    for number, (suffix, kind) in enumerate((("jpg", "PNG"), ("png", "JPEG"), ("gif", "WEBP"), ("tif", "BMP"))):
        yield f"{WHOLE}-wrong-extension-{number}.{suffix}", encode(rgb, kind)


def _png_header(width: int, height: int, colour_type: int, bits: int, body: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def hopeless() -> Iterator[tuple[str, bytes]]:
    """What no decoder can or should make an image of: bombs, other formats, nothing at all."""
    side = 20_000
    bomb = zlib.compress(bytes((side // 8 + 1) * side), 9)
    yield f"{HOPELESS}-bomb.png", _png_header(side, side, 0, 1, bomb)
    yield f"{HOPELESS}-bomb-claimed.png", _png_header(2**31 - 1, 2**31 - 1, 2, 8, b"")
    canvas = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6)
    yield f"{HOPELESS}-bomb.gif", canvas + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02D\x01\x00;"
    yield f"{HOPELESS}-empty.jpg", b""
    yield f"{HOPELESS}-zeros.jpg", bytes(5000)
    yield f"{HOPELESS}-text.png", b"404 not found\n"
    yield f"{HOPELESS}-svg.png", b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>"
    yield f"{HOPELESS}-xml.jpg", b"<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><x>&a;</x>"
    yield f"{HOPELESS}-html.gif", b"<html><body>login</body></html>"
    yield f"{HOPELESS}-pdf.jpg", b"%PDF-1.7\n"
    yield f"{HOPELESS}-zip.tif", b"PK\x03\x04" + bytes(100)
    yield f"{HOPELESS}-header-only.png", b"\x89PNG\r\n\x1a\n"


def _formats(rng: np.random.Generator) -> dict[str, bytes]:
    rgb, grey = picture(rng), picture(rng, mode="L")
    return {
        "jpg": encode(rgb, "JPEG"),
        "progressive.jpg": encode(rgb, "JPEG", progressive=True),
        "arithmetic.jpg": encode(rgb, "JPEG").replace(b"\xff\xc0", b"\xff\xc9", 1),
        "png": encode(rgb, "PNG"),
        "palette.png": encode(rgb.convert("P"), "PNG"),
        "lossy.webp": encode(rgb, "WEBP"),
        "lossless.webp": encode(rgb, "WEBP", lossless=True),
        "animated.webp": encode(rgb, "WEBP", save_all=True, append_images=[picture(rng)]),
        "tif": encode(rgb, "TIFF"),
        "lzw.tif": encode(grey, "TIFF", compression="tiff_lzw"),
        "bmp": encode(rgb, "BMP"),
        "gif": encode(rgb.convert("P"), "GIF", save_all=True, append_images=[picture(rng, mode="P")]),
    }


def mutated(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Images with flipped bits, cut short, with a piece left out, or with a piece of another in the middle."""
    rng = random.Random(seed)
    kinds = _formats(np.random.default_rng(seed))
    everything = list(kinds.values())
    for number in range(count):
        name, data = rng.choice(list(kinds.items()))
        at = rng.randrange(len(data))
        damage = rng.choice(("flipped", "truncated", "gap", "spliced"))
        if damage == "flipped":
            changed = bytearray(data)
            for _ in range(rng.randint(1, 20)):
                changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            data = bytes(changed)
        elif damage == "truncated":
            data = data[:at]
        elif damage == "gap":
            data = data[:at] + data[at + rng.randint(1, 200) :]
        else:
            data = data[:at] + rng.choice(everything)[at : at + 300] + data[at:]
        yield f"{damage}-{number}.{name}", data


def images(count: int, seed: int) -> dict[str, bytes]:
    """All of the above: the oddities, the hopeless, and as many damaged ones as make up ``count``; name -> bytes."""
    found = dict(oddities(np.random.default_rng(seed))) | dict(hopeless())
    return found | dict(mutated(count - len(found), seed))


@dataclass(kw_only=True)
class Container:
    """One file. rows: the image ids that must come out, in order; whole: those that must be labelled.

    damaged: whether its end is lost, which is a row of its own.
    """

    name: str
    rows: list[str]
    whole: set[str] = field(default_factory=set)
    damaged: bool = False


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def write_tar(path: Path, members: list[tuple[str, bytes]], tar_format: int = tarfile.GNU_FORMAT) -> None:
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def tars(folder: Path, found: dict[str, bytes], seed: int, per_tar: int = 60) -> list[Container]:
    """Whole tars of the images given, and one tar of a few good images for every way a tar can be odd or broken."""
    folder.mkdir()
    containers = []
    members = list(found.items())
    random.Random(seed).shuffle(members)
    for number, first in enumerate(range(0, len(members), per_tar)):
        own = members[first : first + per_tar]
        write_tar(folder / f"images-{number:03d}.tar", own)
        names = [_stem(name) for name, _ in own]
        whole = {name for name in names if name.startswith(WHOLE)}
        containers.append(Container(name=f"images-{number:03d}.tar", rows=names, whole=whole))
    for name, make in _TARS.items():
        good = encode(picture(np.random.default_rng(seed)), "JPEG")
        path = folder / f"{name}.tar"
        containers.append(make(path, [(f"{WHOLE}-{name}-{n}.jpg", good) for n in range(5)]))
    return containers


def _container(path: Path, names: list[str], damaged: bool = False) -> Container:
    ids = [_stem(name) for name in names]
    return Container(name=path.name, rows=ids, whole={each for each in ids if WHOLE in each}, damaged=damaged)


Members = list[tuple[str, bytes]]


def _truncated(path: Path, members: Members) -> Container:
    write_tar(path, members)
    third = 3 * (512 + -(-len(members[0][1]) // 512) * 512)
    path.write_bytes(path.read_bytes()[: third + 600])
    return _container(path, [name for name, _ in members[:3]], damaged=True)


def _without_end(path: Path, members: Members) -> Container:
    write_tar(path, members)
    path.write_bytes(path.read_bytes()[: 5 * (512 + -(-len(members[0][1]) // 512) * 512)])
    return _container(path, [name for name, _ in members], damaged=True)


def _corrupt_header(path: Path, members: Members) -> Container:
    write_tar(path, members)
    data = bytearray(path.read_bytes())
    second = 2 * (512 + -(-len(members[0][1]) // 512) * 512)
    data[second : second + 200] = b"\xa5" * 200
    path.write_bytes(data)
    return _container(path, [name for name, _ in members[:2]], damaged=True)


def _duplicates(path: Path, members: Members) -> Container:
    write_tar(path, [*members, *members[:2]])
    return _container(path, [name for name, _ in [*members, *members[:2]]])


def _outside(path: Path, members: Members) -> Container:
    names = ["../../escaped-whole.jpg", "/tmp/absolute-whole.jpg", "a/../../whole-b.jpg", "./whole-c.jpg"]
    write_tar(path, [(name, members[0][1]) for name in names])
    ids = ["../../escaped-whole", "/tmp/absolute-whole", "a/../../whole-b", "whole-c"]
    return Container(name=path.name, rows=ids, whole=set(ids))


def _links(path: Path, members: Members) -> Container:
    write_tar(path, members[:2])
    with tarfile.open(path, "a") as archive:
        for number, kind in enumerate((tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"{HOPELESS}-link-{number}.jpg")
            info.type, info.linkname = kind, "/etc/passwd" if number else members[0][0]
            archive.addfile(info)
    return _container(path, [name for name, _ in members[:2]] + [f"{HOPELESS}-link-{n}.jpg" for n in range(4)])


def _pax(path: Path, members: Members) -> Container:
    long = [(f"{'long/' * 60}{name}", data) for name, data in members]
    write_tar(path, long, tarfile.PAX_FORMAT)
    return _container(path, [name for name, _ in long])


def _empty(path: Path, members: Members) -> Container:
    path.write_bytes(b"")
    return _container(path, [], damaged=True)


def _no_tar(path: Path, members: Members) -> Container:
    path.write_bytes(members[0][1] * 3)
    return _container(path, [], damaged=True)


_TARS: dict[str, Callable[[Path, Members], Container]] = {
    "truncated": _truncated,
    "without-end": _without_end,
    "corrupt-header": _corrupt_header,
    "duplicate-keys": _duplicates,
    "outside": _outside,
    "links": _links,
    "pax": _pax,
    "empty": _empty,
    "no-tar": _no_tar,
}


def parquets(folder: Path, found: dict[str, bytes], seed: int) -> list[Container]:
    """Tables of the images given, with nulls between them, and one table for every way one can be broken."""
    folder.mkdir()
    members = list(found.items())
    containers = []
    for number, first in enumerate(range(0, len(members), 100)):
        own: list[tuple[str, bytes | None]] = list(members[first : first + 100])
        own[3::10] = [(f"{HOPELESS}-null-{number}-{at}.jpg", None) for at in range(len(own[3::10]))]
        ids = [_stem(name) for name, _ in own]
        path = folder / f"images-{number:03d}.parquet"
        pq.write_table(pa.table({"id": ids, "image": pa.array([data for _, data in own], pa.binary())}), path)
        whole = {each for each in ids if each.startswith(WHOLE)}
        containers.append(Container(name=path.name, rows=ids, whole=whole))
    good = encode(picture(np.random.default_rng(seed)), "JPEG")
    ids = [f"{WHOLE}-table-{n}" for n in range(6)]
    table = pa.table({"id": ids, "image": pa.array([good] * 6, pa.binary())})
    broken: dict[str, Callable[[Path], None]] = {
        "wrong-type": lambda path: pq.write_table(table.set_column(1, "image", pa.array(range(6))), path),
        "missing-column": lambda path: pq.write_table(table.drop_columns(["image"]), path),
        "no-table": lambda path: path.write_bytes(good),
        "no-data": lambda path: path.write_bytes(b""),
    }
    for name, write in broken.items():
        write(folder / f"{name}.parquet")
        containers.append(Container(name=f"{name}.parquet", rows=[], damaged=True))
    cut = folder / "truncated.parquet"
    pq.write_table(table, cut)
    cut.write_bytes(cut.read_bytes()[:-40])
    containers.append(Container(name=cut.name, rows=[], damaged=True))
    return containers


def folder_of(folder: Path, found: dict[str, bytes]) -> list[Container]:
    """The images as files; their order is that of their names."""
    folder.mkdir()
    for name, data in found.items():
        (folder / name).write_bytes(data)
    ids = [_stem(name) for name in sorted(found)]
    return [Container(name="", rows=ids, whole={each for each in ids if each.startswith(WHOLE)})]
