"""Every image of a real bucket either becomes RGB pixels or a BadImageError that says why."""

from __future__ import annotations

import gzip
import io
import pickle
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from maskmill.pipeline.decoding.decode import decode_image
from maskmill.pipeline.errors import BadImageError
from tests.pipeline.odd_images import PIXELS, SMOOTH, encoded, png, tiff

ERROR_CLASSES = {"empty", "not_an_image", "markup", "unsupported", "too_many_pixels", "truncated", "corrupt"}


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ],
)
def test_lossless_formats_come_back_exactly(file_format: str, options: dict[str, Any]) -> None:
    decoded = decode_image(encoded(PIXELS, file_format, **options))
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable
    assert np.array_equal(decoded, PIXELS)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 1}])
def test_jpeg_is_what_pillow_decodes(options: dict[str, Any]) -> None:
    data = encoded(SMOOTH, "JPEG", quality=95, **options)
    assert np.array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data))))
    # Largest mean difference over these four: 1.05 levels.
    assert np.abs(decode_image(data).astype(int) - SMOOTH).mean() < 2


def test_cmyk_jpeg() -> None:
    data = encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95)
    # Measured 0.04 levels: chroma is not subsampled in CMYK. A wrong sign (Adobe inverts it) would give above 100.
    assert np.abs(decode_image(data).astype(int) - SMOOTH).mean() < 0.5


def test_grey_palette_and_bilevel() -> None:
    grey = PIXELS[..., 0]
    assert np.array_equal(decode_image(encoded(grey, "PNG")), np.repeat(grey[..., None], 3, axis=2))
    palette = Image.fromarray(PIXELS).quantize(16)
    for file_format in ("PNG", "GIF", "BMP", "TIFF"):
        assert np.array_equal(decode_image(encoded(palette, file_format)), np.asarray(palette.convert("RGB")))
    bilevel = Image.fromarray(grey > 127)
    assert set(np.unique(decode_image(encoded(bilevel, "TIFF", compression="group4")))) == {0, 255}


def test_16_bit_samples_keep_their_upper_byte() -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (20, 30), dtype=np.uint16)
    expected = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=2)
    for file_format in ("PNG", "TIFF"):
        assert np.array_equal(decode_image(encoded(deep, file_format)), expected)
    deep_rgb = np.random.default_rng(2).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    upper = (deep_rgb >> 8).astype(np.uint8)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep_rgb)
    assert np.array_equal(decode_image(png(7, 5, colour_type=2, bits=16, rows=rows)), upper)
    assert np.array_equal(decode_image(tiff(deep_rgb)), upper)


def test_float_tiff_of_0_to_1_and_no_other() -> None:
    unit = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    assert np.array_equal(decode_image(encoded(unit, "TIFF"))[..., 1], np.rint(unit * 255).astype(np.uint8))
    for bad in (unit * 300, unit - 0.5, unit * np.float32(np.nan)):
        with pytest.raises(BadImageError) as caught:
            decode_image(encoded(bad, "TIFF"))
        assert caught.value.error_class == "unsupported"


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_over_white(file_format: str) -> None:
    rgba = np.dstack([PIXELS, np.full((20, 30), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    rgba[10:12, :, 3] = 128
    options = {"lossless": True} if file_format == "WEBP" else {}
    decoded = decode_image(encoded(rgba, file_format, **options)).astype(int)
    assert (decoded[:10] == 255).all()
    half = rgba[10:12, :, :3].astype(int) * 128 / 255 + 255 * 127 / 255
    assert np.abs(decoded[10:12] - half).max() <= 1
    assert np.array_equal(decoded[12:], PIXELS[12:])


def test_transparent_palette_and_colour_key_lie_over_white() -> None:
    palette = Image.fromarray(PIXELS).quantize(8)
    decoded = decode_image(encoded(palette, "PNG", transparency=3))
    assert (decoded[np.asarray(palette) == 3] == 255).all()
    keyed = np.zeros((4, 4, 3), np.uint8)
    keyed[0] = (10, 20, 30)
    decoded = decode_image(encoded(keyed, "PNG", transparency=(10, 20, 30)))
    assert (decoded[0] == 255).all()
    assert (decoded[1:] == 0).all()


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(file_format: str) -> None:
    first = Image.new("RGB", (12, 8), (200, 10, 10))
    second = Image.new("RGB", (12, 8), (10, 10, 200))
    options = {"lossless": True} if file_format == "WEBP" else {}
    decoded = decode_image(encoded(first, file_format, save_all=True, append_images=[second], **options))
    assert (decoded == (200, 10, 10)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(file_format: str, orientation: int) -> None:
    if file_format == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[0x0112] = orientation
        data = encoded(SMOOTH, file_format, tiffinfo=tags)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(SMOOTH, file_format, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert expected.shape[:2] == ((30, 20) if orientation > 4 else (20, 30))
    assert np.array_equal(decode_image(data), expected)


def test_unreadable_exif_does_not_cost_the_image() -> None:
    data = encoded(SMOOTH, "JPEG", exif=b"Exif\0\0this is no TIFF header at all")
    assert decode_image(data).shape == (20, 30, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (3, 4, 5))
    for file_format in ("PNG", "JPEG"):
        assert decode_image(encoded(image, file_format)).shape == (size[1], size[0], 3)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "zero bytes": (lambda: b"", "empty"),
    "text": (lambda: b"this is no picture, whatever its name says\n" * 3, "not_an_image"),
    "one byte": (lambda: b"\xff", "not_an_image"),
    "zeros": (lambda: bytes(5000), "not_an_image"),
    "svg": (lambda: b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
    "xml with byte order mark": (lambda: b"\xef\xbb\xbf<?xml version='1.0'?><a/>", "markup"),
    "html": (lambda: b"\n<!DOCTYPE html><p>404 not found</p>", "markup"),
    "pdf": (lambda: b"%PDF-1.7\n", "unsupported"),
    "gzip": (lambda: gzip.compress(b"x" * 100), "unsupported"),
    "heic header only": (lambda: b"\0\0\0\x18ftypheic" + bytes(40), "corrupt"),
    "format Pillow knows but we do not want": (lambda: encoded(PIXELS, "PPM"), "unsupported"),
    "truncated jpeg": (lambda: encoded(PIXELS, "JPEG")[:-200], "truncated"),
    "truncated progressive jpeg": (lambda: encoded(PIXELS, "JPEG", progressive=True)[:-200], "truncated"),
    "truncated png": (lambda: encoded(PIXELS, "PNG")[:-200], "truncated"),
    "truncated gif": (lambda: encoded(PIXELS, "GIF")[:-400], "truncated"),
    "truncated bmp": (lambda: encoded(PIXELS, "BMP")[:-200], "truncated"),
    "truncated webp": (lambda: encoded(PIXELS, "WEBP")[:-200], "truncated"),
    "truncated tiff": (lambda: encoded(PIXELS, "TIFF")[:200], "truncated"),
    "png header only": (lambda: b"\x89PNG\r\n\x1a\n", "corrupt"),
    "jpeg header only": (lambda: b"\xff\xd8\xff\xe0", "corrupt"),
    "png with a damaged data chunk": (lambda: encoded(PIXELS, "PNG").replace(b"IDATx", b"IDATy", 1), "corrupt"),
    "png of no size": (lambda: png(0, 5, colour_type=2, bits=8, rows=b""), "corrupt"),
    "png bomb": (lambda: png(50_000, 50_000, colour_type=0, bits=1, rows=b"\0"), "too_many_pixels"),
    "png bomb just over the limit": (lambda: png(13_400, 13_400, colour_type=2, bits=8, rows=b""), "too_many_pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_say_why(name: str) -> None:
    make, error_class = BAD[name]
    with pytest.raises(BadImageError) as caught:
        decode_image(make())
    assert caught.value.stage == "decode"
    assert caught.value.error_class == error_class
    assert caught.value.message
    assert pickle.loads(pickle.dumps(caught.value)).error_class == error_class


def test_arithmetic_coded_jpeg_is_a_known_kind() -> None:
    """Relabelled as arithmetic-coded, the data decodes to other pixels: the coder is there and was used."""
    data = encoded(PIXELS, "JPEG")
    relabelled = decode_image(data.replace(b"\xff\xc0", b"\xff\xc9", 1))
    assert relabelled.shape == (20, 30, 3)
    assert not np.array_equal(relabelled, decode_image(data))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_the_pixel_limit_is_exact_and_a_setting(file_format: str) -> None:
    data = encoded(PIXELS, file_format)
    assert decode_image(data, max_pixels=600).shape == (20, 30, 3)
    for limit in (599, 300, 299, 1):
        with pytest.raises(BadImageError) as caught:
            decode_image(data, max_pixels=limit)
        assert caught.value.error_class == "too_many_pixels"
    assert Image.MAX_IMAGE_PIXELS == 89_478_485


def mutated(data: bytes, rng: random.Random) -> bytes:
    kind, broken = rng.randrange(5), bytearray(data)
    if kind == 0:
        del broken[rng.randrange(len(broken)) :]
    elif kind == 1:
        for _ in range(rng.randrange(1, 20)):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        for _ in range(rng.randrange(1, 5)):
            broken[rng.randrange(min(200, len(broken)))] = rng.randrange(256)
    elif kind == 3:
        start = rng.randrange(len(broken))
        del broken[start : rng.randrange(start, len(broken))]
    else:
        start = rng.randrange(len(broken))
        broken[start:start] = rng.randbytes(rng.randrange(1, 40))
    return bytes(broken)


def test_mutated_images_raise_nothing_but_bad_image_error() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    picture, deep = Image.fromarray(PIXELS), np.arange(600, dtype=np.uint16).reshape(20, 30)
    seeds = [
        encoded(picture, "JPEG"),
        encoded(picture, "JPEG", progressive=True, exif=exif),
        encoded(picture.convert("CMYK"), "JPEG"),
        encoded(picture, "PNG", exif=exif),
        encoded(picture.quantize(16), "PNG", transparency=2),
        encoded(deep, "PNG"),
        encoded(picture, "WEBP", exif=exif),
        encoded(picture.convert("RGBA"), "WEBP", save_all=True, append_images=[picture.rotate(90)]),
        encoded(picture, "TIFF", compression="jpeg"),
        encoded(picture, "TIFF", compression="tiff_lzw"),
        encoded(deep.astype(np.float32) / 600, "TIFF"),
        encoded(picture.convert("1"), "TIFF", compression="group4"),
        encoded(picture, "BMP"),
        encoded(picture, "GIF", save_all=True, append_images=[picture.rotate(90)]),
    ]
    rng = random.Random(0)
    outcomes: Counter[str] = Counter()
    for number in range(1400):
        data = mutated(seeds[number % len(seeds)], rng)
        try:
            # The limit keeps mutated sizes cheap; 20,000 more under the default one raised nothing else either.
            image = decode_image(data, max_pixels=1_000_000)
        except BadImageError as error:
            outcomes[error.error_class] += 1
        else:
            assert image.dtype == np.uint8
            assert image.ndim == 3
            outcomes["decoded"] += 1
    assert set(outcomes) <= ERROR_CLASSES | {"decoded"}
    assert outcomes["decoded"] > 200
    assert outcomes["corrupt"] > 200
    assert outcomes["truncated"] > 100


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_at_a_reduced_scale_and_looks_the_same(orientation: int) -> None:
    from maskmill.model.images.resize import output_size, resize
    from maskmill.pipeline.decoding.decode import decode_for

    rows, columns = np.mgrid[0:1200, 0:1600]
    pixels = np.stack((rows % 256, columns % 256, (rows + columns) // 11), axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, exif=exif)
    full = decode_image(stream.getvalue())
    decoded = decode_for(stream.getvalue(), lambda height, width: output_size(height, width, 120))
    assert (decoded.height, decoded.width) == full.shape[:2]
    # 1200 x 1600 for 120 x 160: a quarter is 300 x 400, an eighth would be too near.
    assert sorted(decoded.pixels.shape) == [3, 300, 400]
    height, width = output_size(*full.shape[:2], 120)
    difference = np.abs(resize(decoded.pixels, height, width).astype(int) - resize(full, height, width))
    # 0.4 of 255 measured on average.
    assert difference.mean() < 1.0
