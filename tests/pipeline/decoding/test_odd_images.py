"""One file of each kind that cameras, phones and programs make: its pixels, or an error that names what it is."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 (registers JPEG XL)
import pytest
from PIL import Image, ImageCms

from maskmill.pipeline.decoding import decoders
from maskmill.pipeline.decoding.decode import Decoding, decode_for, decode_image, read_header
from maskmill.pipeline.decoding.jpeg_xl import jpeg_xl_size
from maskmill.pipeline.errors import BadImageError
from tests.pipeline import odd_images as odd
from tests.pipeline.odd_images import PIXELS, SMOOTH, chunk, encoded, rgb_png, tiff

pillow_heif.register_heif_opener(thumbnails=False)
LOSSLESS_HEIC = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}


def error_of(data: bytes, **how: int) -> tuple[str, str]:
    with pytest.raises(BadImageError) as caught:
        decode_image(data, **how)
    assert caught.value.stage == "decode"
    return caught.value.error_class, caught.value.message


def difference(data: bytes, expected: np.ndarray, **how: int) -> int:
    decoded = decode_image(data, **how)
    assert decoded.shape == expected.shape
    return int(np.abs(decoded.astype(int) - expected).max())


# Phones


def test_heic_and_avif_give_their_pixels() -> None:
    assert difference(encoded(PIXELS, "HEIF", **LOSSLESS_HEIC), PIXELS) == 0
    # AVIF of the highest quality still converts colours; 2 levels measured.
    assert difference(encoded(SMOOTH, "AVIF", quality=100, subsampling="4:4:4"), SMOOTH) <= 3


def test_heic_and_avif_are_turned_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.rot90(SMOOTH, -1)
    picture = Image.fromarray(SMOOTH)
    picture.info["exif"] = exif.tobytes()
    heic = encoded(picture, "HEIF", **LOSSLESS_HEIC)
    assert b"irot" in heic
    assert difference(heic, turned) == 0
    avif = encoded(SMOOTH, "AVIF", quality=100, subsampling="4:4:4", exif=exif)
    assert difference(avif, turned) <= 3
    for data in (heic, avif):
        header = read_header(data)
        assert (header.height, header.width) == (30, 20)


@pytest.mark.parametrize("container", [False, True])
def test_jpeg_xl_gives_its_pixels(container: bool) -> None:
    data = encoded(PIXELS, "JXL", lossless=True, use_container=container)
    assert data.startswith(b"\x00\x00\x00\x0cJXL " if container else b"\xff\x0a")
    assert difference(data, PIXELS) == 0


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (256, 256), (264, 40), (30, 20), (640, 480), (9000, 3), (1920, 1080)])
def test_the_size_of_a_jpeg_xl_is_read_before_its_pixels(size: tuple[int, int]) -> None:
    for container in (False, True):
        data = encoded(Image.new("L", size), "JXL", use_container=container)
        assert jpeg_xl_size(data) == size
        if size != (1, 1):
            assert error_of(data, max_pixels=size[0] * size[1] - 1)[0] == "too_many_pixels"


def test_a_jpeg_packed_as_jpeg_xl_is_turned_as_the_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = encoded(SMOOTH, "JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(jpeg)
    with Image.open(tmp_path / "a.jpg") as picture:
        packed = encoded(picture, "JXL", lossless_jpeg=True)
    assert difference(packed, decode_image(jpeg)) <= 2


@pytest.fixture
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation without the optional decoders."""
    for name in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, name, None)
    decoders._heif.cache_clear()
    decoders._jpeg_xl.cache_clear()
    yield
    decoders._heif.cache_clear()
    decoders._jpeg_xl.cache_clear()


def test_without_a_plugin_the_error_names_format_and_extra(no_plugins: None) -> None:
    error_class, message = error_of(encoded(PIXELS, "HEIF"))
    assert error_class == "unsupported"
    assert "HEIC" in message
    assert "maskmill[heif]" in message
    for container in (False, True):
        error_class, message = error_of(encoded(PIXELS, "JXL", use_container=container))
        assert error_class == "unsupported"
        assert "JPEG XL" in message
        assert "maskmill[jxl]" in message


def test_of_an_mpo_the_first_picture_is_taken_and_reduced_as_a_jpeg() -> None:
    large = Image.fromarray(SMOOTH).resize((1200, 800), Image.Resampling.BICUBIC)
    data = encoded(large, "MPO", save_all=True, append_images=[large.rotate(180)])
    first = encoded(large, "JPEG")
    assert np.array_equal(decode_image(data), decode_image(first))
    reduced = decode_for(data, lambda height, width: (100, 150), Decoding())
    assert reduced.pixels.shape == (200, 300, 3)
    assert (reduced.height, reduced.width) == (800, 1200)


# TIFF and deep samples


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_tiff_and_bigtiff_of_both_byte_orders(order: str, big: bool) -> None:
    assert difference(tiff(PIXELS, order, big=big), PIXELS) == 0
    deep = (PIXELS[..., 0].astype(np.uint16) << 8) | 0x5A
    assert difference(tiff(deep, order, big=big), np.repeat(PIXELS[..., :1], 3, axis=2)) == 0
    with_long_strips = tiff(PIXELS, order, big=big, extra=[(279, 16 if big else 4, [PIXELS.size])])
    assert difference(with_long_strips, PIXELS) == 0


@pytest.mark.parametrize("cut", [4, 12, 30, 1850, 1900, 2000])
def test_a_bigtiff_that_ends_early_is_damage_of_its_own(cut: int) -> None:
    assert error_of(tiff(PIXELS, ">", big=True)[:cut])[0] in ("truncated", "corrupt")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_width_and_height_are_those_of_the_upright_picture(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = (30, 20) if orientation > 4 else (20, 30)
    files = [encoded(SMOOTH, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP")]
    for data in [*files, tiff(SMOOTH, extra=[(0x0112, 3, [orientation])])]:
        decoded, header = decode_for(data, None), read_header(data)
        assert (decoded.height, decoded.width) == decoded.pixels.shape[:2] == expected
        assert (header.height, header.width) == expected
        assert header.is_upright == (orientation == 1)


def test_twelve_bits_in_sixteen_use_the_upper_eight_of_twelve() -> None:
    rng = np.random.default_rng(3)
    grey, colour = rng.integers(0, 4096, (20, 30), np.uint16), rng.integers(0, 4096, (20, 30, 3), np.uint16)
    upper, upper_grey = (colour >> 4).astype(np.uint8), np.repeat((grey >> 4).astype(np.uint8)[..., None], 3, axis=2)
    for order in "<>":
        assert difference(tiff(grey, order), upper_grey, sample_bits=12) == 0
        assert difference(tiff(colour, order), upper, sample_bits=12) == 0
    assert difference(rgb_png(colour), upper, sample_bits=12) == 0
    assert difference(encoded(grey, "PNG"), upper_grey, sample_bits=12) == 0
    # More than twelve bits are white, images of 8 bits stay as they are.
    assert (decode_image(tiff(np.full((4, 4, 3), 5000, np.uint16)), sample_bits=12) == 255).all()
    assert difference(encoded(PIXELS, "PNG"), PIXELS, sample_bits=12) == 0
    assert difference(tiff(PIXELS), PIXELS, sample_bits=12) == 0


def test_compressed_colour_of_twelve_bits_in_sixteen() -> None:
    colour = np.random.default_rng(4).integers(0, 4096, (20, 30, 3), np.uint16)
    for order in "<>":
        data = zlib.compress(colour.astype(f"{order}u2").tobytes())
        packed = {259: (259, 3, [8]), 279: (279, 4, [len(data)])}
        entries = {
            256: (256, 3, [30]),
            257: (257, 3, [20]),
            258: (258, 3, [16, 16, 16]),
            262: (262, 3, [2]),
            273: (273, 4, [16]),
            277: (277, 3, [3]),
            278: (278, 3, [20]),
            **packed,
        }
        file = odd.assembled(data + bytes(len(data) % 2), sorted(entries.values()), order)
        assert difference(file, (colour >> 8).astype(np.uint8)) == 0
        assert difference(file, (colour >> 4).astype(np.uint8), sample_bits=12) == 0


def test_deep_grey_says_itself_what_is_white_and_how_many_bits_it_has() -> None:
    deep = np.random.default_rng(5).integers(0, 65536, (20, 30), np.uint16)
    inverted = np.repeat((255 - (deep >> 8)).astype(np.uint8)[..., None], 3, axis=2)
    assert difference(tiff(deep, photometric=0), inverted) == 0
    # 12 bits packed: two samples in three bytes.
    twelve = np.random.default_rng(6).integers(0, 4096, (20, 30), np.uint16)
    bits = np.unpackbits(twelve.astype(">u2").view(np.uint8).reshape(20, 30, 2), axis=2)[..., 4:].reshape(20, -1)
    packed = np.packbits(bits, axis=1).tobytes()
    tags = [(256, 30), (257, 20), (258, 12), (259, 1), (262, 1), (273, 16), (277, 1), (278, 20), (279, len(packed))]
    data = odd.assembled(packed, [(tag, 4 if tag in (273, 279) else 3, [value]) for tag, value in tags], "<")
    assert difference(data, np.repeat((twelve >> 4).astype(np.uint8)[..., None], 3, axis=2)) == 0


def test_floats_are_scaled_from_the_range_that_the_file_declares() -> None:
    ramp = np.linspace(-1, 3, 600, dtype=np.float32).reshape(20, 30)
    expected = np.repeat(np.rint((ramp + 1) / 4 * 255).astype(np.uint8)[..., None], 3, axis=2)
    declared = tiff(ramp, extra=[(340, 11, [-1.0]), (341, 11, [3.0])])
    assert difference(declared, expected) == 0
    error_class, message = error_of(tiff(ramp))
    assert error_class == "unsupported"
    assert "samples of -1 to 3, outside 0 to 1" in message
    assert error_of(tiff(np.dstack([ramp] * 3)))[0] == "unsupported"


# PNG chunks


def test_large_or_damaged_chunks_that_hold_no_pixels_do_not_cost_the_image() -> None:
    long_text = b"Comment\0\0" + zlib.compress(b"x" * 3_000_000)
    plain = b"Comment\0" + b"x" * 3_000_000
    icc = b"icc\0\0" + zlib.compress(bytes(3_000_000))
    for extra in (
        chunk(b"zTXt", long_text),
        chunk(b"tEXt", plain),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
        chunk(b"iCCP", icc),
        chunk(b"iCCP", b"icc\0\0not zlib"),
        chunk(b"tEXt", b"a\0b", damage=1),
        chunk(b"gAMA", b"\0\0\xb1\x8f", damage=1),
        chunk(b"pHYs", b"\0"),
        odd.profile_chunk(odd.rgb_profile())[:-1] + b"\0",
        chunk(b"tEXt", b"a\0" + b"x" * 1000) * 70_000,
    ):
        assert difference(rgb_png(PIXELS, extra), PIXELS) == 0


@pytest.mark.parametrize("kind", [b"IDAT", b"IHDR", b"PLTE", b"tRNS"])
def test_a_wrong_checksum_of_pixels_is_corrupt(kind: bytes) -> None:
    if kind in (b"PLTE", b"tRNS"):
        data = odd.png(
            2, 1, 3, 8, b"\0\0\1", chunk(b"PLTE", bytes(6), kind == b"PLTE") + chunk(b"tRNS", b"\0", kind == b"tRNS")
        )
    else:
        data = rgb_png(PIXELS, damage=kind)
    error_class, message = error_of(data)
    assert error_class == "corrupt"
    assert f"wrong checksum of the chunk {kind.decode()}" in message


def test_what_a_png_says_of_its_orientation_is_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(SMOOTH, "PNG", exif=exif)
    assert difference(data + b"rubbish", np.rot90(SMOOTH, -1)) == 0
    text = f"\nexif\n{len(exif.tobytes()):8d}\n{exif.tobytes().hex()}\n".encode()
    packed = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    assert difference(rgb_png(SMOOTH, packed), np.rot90(SMOOTH, -1)) == 0


# BMP


def test_a_bitmap_whose_alpha_is_zero_everywhere_is_opaque() -> None:
    rgba = np.dstack([PIXELS, np.zeros((20, 30), np.uint8)])
    assert difference(odd.bitmap_with_alpha(rgba), PIXELS) == 0
    rgba[0, 0, 3] = 255
    decoded = decode_image(odd.bitmap_with_alpha(rgba))
    assert np.array_equal(decoded[0, 0], PIXELS[0, 0])
    assert (decoded[1:] == 255).all()


# Colour profiles


def srgb_levels(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    return np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


XYZ_TO_SRGB = np.linalg.inv(
    np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
)
"""From XYZ of D50 (Bradford), the space in which profiles meet."""


def test_colours_are_converted_to_srgb_by_their_profile() -> None:
    inside = (PIXELS // 2 + 64).astype(np.uint8)  # no colour beyond sRGB, which would be clipped
    linear = (inside / 255.0) ** 2.2 @ odd.P3_TO_XYZ.T @ XYZ_TO_SRGB.T
    expected = srgb_levels(linear)
    assert np.abs(expected - inside).max() > 10
    icc = odd.rgb_profile()
    for data in (rgb_png(inside, odd.profile_chunk(icc)), encoded(inside, "TIFF", icc_profile=icc)):
        assert difference(data, expected) <= 2
    assert difference(encoded(inside, "WEBP", lossless=True, icc_profile=icc), expected) <= 2
    assert difference(encoded(inside, "HEIF", icc_profile=icc, **LOSSLESS_HEIC), expected) <= 2
    rgba = np.dstack([inside, np.full((20, 30), 255, np.uint8)])
    assert difference(encoded(rgba, "PNG", icc_profile=icc), expected) <= 2


def test_grey_and_printing_profiles() -> None:
    grey = SMOOTH[..., 0]
    expected = np.repeat(srgb_levels(grey / 255)[..., None], 3, axis=2)
    icc = odd.grey_profile(1.0)
    assert difference(encoded(grey, "PNG", icc_profile=icc), expected) <= 2
    assert difference(tiff(grey.astype(np.uint16) << 8, extra=[(34675, 1, list(icc))]), expected) <= 2
    # Grey under the profile of colours goes by its curve.
    assert difference(encoded(grey, "PNG", icc_profile=odd.rgb_profile(gamma=1.0)), expected) <= 2
    ink = np.zeros((20, 30, 4), np.uint8)
    ink[..., 0], ink[10:, :, 3] = 255, 255
    cmyk = encoded(Image.fromarray(ink, mode="CMYK"), "TIFF", icc_profile=odd.cmyk_profile())
    decoded = decode_image(cmyk)
    # Of this press cyan is no colour at all: paper stays white, and only black prints.
    assert decoded[:10].min() >= 253
    assert decoded[10:].max() <= 2


def test_lab_is_converted() -> None:
    picture = Image.fromarray(SMOOTH)
    lab = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    assert np.abs(decode_image(encoded(lab, "TIFF")).astype(int) - SMOOTH).mean() < 2


def test_profiles_of_no_use_are_ignored() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    good = odd.rgb_profile()
    bad = (b"rubbish", good[:200], good[:128] + bytes(len(good) - 128), odd.cmyk_profile(), bytes(9 * 2**20), srgb)
    for icc in bad:
        assert difference(encoded(PIXELS, "TIFF", icc_profile=icc), PIXELS) == 0


# Formats that cannot be read


def iso_media(*brands: bytes) -> bytes:
    return struct.pack(">I", 12 + 4 * len(brands)) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:]) + bytes(64)


def raw_preview(*extra: odd.Entry) -> bytes:
    return tiff(PIXELS, extra=[(254, 4, [1]), *extra])


def with_pillow(file_format: str, **options: object) -> bytes:
    from PIL import Image as Registry

    Registry.init()
    return encoded(PIXELS, file_format, **options)


FOREIGN = {
    "ICO": lambda: with_pillow("ICO"),
    "CUR": lambda: b"\0\0\2\0\1\0" + bytes(60),
    "ICNS": lambda: encoded(Image.fromarray(PIXELS).resize((64, 64)), "ICNS"),
    "TGA": odd.tga,
    "TGA ": lambda: with_pillow("TGA", compression="tga_rle"),
    "MNG": lambda: b"\x8aMNG\r\n\x1a\n" + bytes(40),
    "JNG": lambda: b"\x8bJNG\r\n\x1a\n" + bytes(40),
    "DIB": lambda: with_pillow("DIB"),
    "JPEG 2000": lambda: with_pillow("JPEG2000"),
    "JPEG 2000 ": lambda: with_pillow("JPEG2000", no_jp2=True),
    "lossless JPEG": lambda: odd.lossless_jpeg(0xCB),
    "hierarchical JPEG": lambda: odd.lossless_jpeg(0xC5),
    "JPEG-LS": lambda: odd.lossless_jpeg(0xF7),
    "JPEG of 12 bits": lambda: odd.lossless_jpeg(0xC1, bits=12),
    "CgBI": lambda: rgb_png(PIXELS).replace(b"\r\n\x1a\n", b"\r\n\x1a\n" + chunk(b"CgBI", b"\x50\0\x20\x02"), 1),
    "SVG": lambda: b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "SVG ": lambda: b"\xff\xfe" + '<svg width="1"/>'.encode("utf-16-le"),
    "PSD": lambda: b"8BPS\0\1" + bytes(60),
    "XCF": lambda: b"gimp xcf v011\0" + bytes(60),
    "DDS": lambda: with_pillow("DDS"),
    "PCX": lambda: with_pillow("PCX"),
    "PNM": lambda: with_pillow("PPM"),
    "SGI": lambda: with_pillow("SGI"),
    "QOI": lambda: b"qoif" + struct.pack(">II2B", 30, 20, 3, 0) + bytes(60),
    "EPS": lambda: with_pillow("EPS"),
    "PDF": lambda: with_pillow("PDF"),
    "OpenEXR": lambda: b"\x76\x2f\x31\x01\2\0\0\0" + bytes(60),
    "Radiance": lambda: b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n",
    "FITS": lambda: b"SIMPLE  =                    T" + bytes(60),
    "DICOM": lambda: bytes(128) + b"DICM" + bytes(60),
    "XBM": lambda: encoded(Image.fromarray(PIXELS).convert("1"), "XBM"),
    "DNG": lambda: raw_preview((50706, 1, [1, 4, 0, 0])),
    "raw file": lambda: raw_preview((330, 4, [8])),
    "CR2": lambda: b"II*\0\x10\0\0\0CR\2\0" + bytes(60),
    "CR3": lambda: iso_media(b"crx ", b"crx ", b"isom"),
    "RAF": lambda: b"FUJIFILMCCD-RAW 0201" + bytes(60),
    "MP4": lambda: iso_media(b"isom", b"isom", b"iso2", b"mp41"),
    "QuickTime": lambda: struct.pack(">I", 108) + b"moov" + bytes(100),
    "WebM": lambda: b"\x1a\x45\xdf\xa3" + bytes(60),
    "AVI": lambda: b"RIFF" + struct.pack("<I", 64) + b"AVI LIST" + bytes(60),
    "TIFF of compression 34712": lambda: tiff(PIXELS, extra=[(259, 3, [34712])]),
    "WebP compression": lambda: tiff(PIXELS, extra=[(259, 3, [50001])]),
    "zip": lambda: b"PK\x03\x04" + bytes(60),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_cannot_be_read_is_unsupported_by_its_name(name: str) -> None:
    error_class, message = error_of(FOREIGN[name]())
    assert error_class == "unsupported"
    assert name.strip().lower() in message.lower()


def test_brands_tell_heic_avif_and_video_apart() -> None:
    for brands in ([b"mif1", b"heic"], [b"mif1", b"avif"], [b"msf1", b"hevc"]):
        # Recognised, and then found to hold nothing.
        assert error_of(iso_media(*brands))[0] in ("corrupt", "truncated")


def test_lossless_jpeg_is_read_where_libjpeg_can() -> None:
    """Of libjpeg-turbo 3; an older one makes it an error with the right name, which CB above shows."""
    assert (decode_image(odd.lossless_jpeg()) == 128).all()


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JXL", "WEBP"])
def test_files_that_end_early_are_truncated(kind: str) -> None:
    options = {"use_container": True} if kind == "JXL" else {}
    data = encoded(PIXELS, kind, **options)
    for cut in (len(data) // 2, len(data) - 1):
        error_class, message = error_of(data[:cut])
        assert error_class == "truncated", message


def test_sound_text_and_numbers_are_no_images() -> None:
    for data in (
        b"RIFF\x24\0\0\0WAVEfmt " + bytes(30),
        b"hello",
        bytes(range(256)),
        b"P7 is a chess square, or 0.7"[1:],
    ):
        assert error_of(data)[0] == "not_an_image"
    assert error_of(b"<html><body>404</body></html>") == ("markup", "XML or HTML, which is no image")
