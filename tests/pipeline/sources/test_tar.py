"""Tars: every image once and in order, every damage seen, nothing followed or extracted, memory bounded."""

from __future__ import annotations

import gzip
import io
import pickle
import random
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.sources import ImageRecord, ReadLimits, Shard, ShardError, count_images, list_shards, read_shard

BLOCK = tarfile.BLOCKSIZE


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(data)
    return info, data


def tar_bytes(members: list[tuple[tarfile.TarInfo, bytes]], file_format: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=file_format) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def images(count: int) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [member(f"{number:03d}.jpg", bytes([65 + number]) * (300 + 100 * number)) for number in range(count)]


def shard_of(tmp_path: Path, data: bytes, name: str = "x.tar") -> Shard:
    """A shard of these bytes, also where they are no whole tar: listed beside a good one."""
    folder = tmp_path / "tars"
    folder.mkdir(exist_ok=True)
    (folder / "a-good.tar").write_bytes(tar_bytes(images(1)))
    (folder / name).write_bytes(data)
    return next(shard for shard in list_shards(str(folder)) if shard.location.endswith("/" + name))


def read(tmp_path: Path, data: bytes, **options: object) -> list[ImageRecord]:
    return list(read_shard(shard_of(tmp_path, data), **options))  # type: ignore[arg-type]


def until_damage(records: Iterator[ImageRecord]) -> tuple[list[ImageRecord], ShardError | None]:
    found: list[ImageRecord] = []
    try:
        found.extend(records)
    except ShardError as error:
        return found, error
    return found, None


def test_members_come_in_order_with_their_bytes(tmp_path: Path) -> None:
    others = [
        member("readme.txt", b"t"),
        member("000.json", b"{}"),
        member("._000.jpg", b"mac"),
        member("d.jpg/", kind=tarfile.DIRTYPE),
    ]
    records = read(tmp_path, tar_bytes([*others, *images(3), member("UP.PNG", b"p"), member("./b/c.d.webp", b"w")]))
    assert [record.image_id for record in records] == ["000", "001", "002", "UP", "b/c.d"]
    assert [record.row for record in records] == [0, 1, 2, 3, 4]
    assert [record.data for record in records] == [b"A" * 300, b"B" * 400, b"C" * 500, b"p", b"w"]
    assert records[0].uri == f"{tmp_path}/tars/x.tar#000.jpg"
    assert not any(record.error or record.segmentation for record in records)


def test_segmentations_go_with_their_image_and_are_never_images(tmp_path: Path) -> None:
    data = tar_bytes(
        [
            member("1.jpg", b"1"),
            member("1.seg.png", b"after"),
            member("2.seg.png", b"before"),
            member("2.jpg", b"2"),
            member("3.jpg", b"3"),
            member("orphan.seg.png", b"of none"),
            member("4.jpg", b"4"),
            member("4.txt", b"between"),
            member("4.seg.png", b"after text"),
        ]
    )
    records = read(tmp_path, data, with_segmentation=True)
    assert [(r.image_id, r.data, r.segmentation) for r in records] == [
        ("1", b"1", b"after"),
        ("2", b"2", b"before"),
        ("3", b"3", None),
        ("4", b"4", b"after text"),
    ]
    assert [(r.image_id, r.segmentation) for r in read(tmp_path, data)] == [(name, None) for name in "1234"]


def test_duplicate_names_are_two_rows(tmp_path: Path) -> None:
    records = read(tmp_path, tar_bytes([member("a.jpg", b"1"), member("a.jpg", b"2"), member("a.png", b"3")]))
    assert [(r.image_id, r.row, r.data) for r in records] == [("a", 0, b"1"), ("a", 1, b"2"), ("a", 2, b"3")]


def test_names_are_only_text(tmp_path: Path) -> None:
    names = ["../../escape.jpg", "/etc/absolute.jpg", "a/../../b.jpg", "new\nline.jpg", "ü/" + "n" * 300 + ".jpg"]
    before = sorted(tmp_path.rglob("*"))
    records = read(tmp_path, tar_bytes([member(name, b"x") for name in names]))
    assert [r.image_id for r in records] == [name.removesuffix(".jpg") for name in names]
    assert all(r.data == b"x" for r in records)
    assert sorted(set(tmp_path.rglob("*")) - set(before)) == [
        tmp_path / "tars",
        tmp_path / "tars" / "a-good.tar",
        tmp_path / "tars" / "x.tar",
    ]


def test_a_name_that_is_no_unicode_becomes_text_that_is(tmp_path: Path) -> None:
    info, data = member("odd-\udcff.jpg", b"x")
    (record,) = read(tmp_path, tar_bytes([(info, data)], tarfile.GNU_FORMAT))
    assert record.image_id == "odd-\\xff"
    assert record.uri.encode().endswith(b"odd-\\xff.jpg")


@pytest.mark.parametrize("file_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_tar_dialects(tmp_path: Path, file_format: int) -> None:
    deep = "/".join(["folder"] * 12) + "/x.jpg" if file_format == tarfile.USTAR_FORMAT else "n" * 200 + ".jpg"
    info, data = member(deep, b"x")
    if file_format == tarfile.PAX_FORMAT:
        info.pax_headers = {"comment": "c" * 3000, "SCHILY.xattr.user": "v"}
    records = read(tmp_path, tar_bytes([(info, data), *images(1)], file_format))
    assert [r.image_id for r in records] == [deep.removesuffix(".jpg"), "000"]


def test_links_and_devices_are_errors_and_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    data = tar_bytes(
        [
            member("good.jpg", b"x"),
            member("sym.jpg", kind=tarfile.SYMTYPE, target=str(secret)),
            member("hard.jpg", kind=tarfile.LNKTYPE, target="good.jpg"),
            member("dev.jpg", kind=tarfile.CHRTYPE),
            member("fifo.png", kind=tarfile.FIFOTYPE),
            member("link.txt", kind=tarfile.SYMTYPE, target="/etc/passwd"),
        ]
    )
    records = read(tmp_path, data)
    assert [(r.image_id, r.error and r.error.error_class) for r in records] == [
        ("good", None),
        ("sym", "link"),
        ("hard", "link"),
        ("dev", "not_a_file"),
        ("fifo", "not_a_file"),
    ]
    assert all((r.data is None) != (r.error is None) for r in records)
    assert all(r.error is None or r.error.stage == "read" for r in records)


def test_an_empty_member_is_an_error(tmp_path: Path) -> None:
    records = read(tmp_path, tar_bytes([member("a.jpg"), member("b.jpg", b"x")]))
    assert [(r.image_id, r.error and r.error.error_class) for r in records] == [("a", "empty"), ("b", None)]


def test_a_large_member_is_an_error_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.tar"
    size = 600 * 2**20
    header, _ = member("big.jpg")
    header.size = size
    with path.open("wb") as stream:
        stream.write(header.tobuf())
        stream.seek(size, io.SEEK_CUR)
        stream.write(tar_bytes(images(2)))
    (shard,) = list_shards(str(path))
    tracemalloc.start()
    records = list(read_shard(shard))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(r.image_id, r.error and r.error.error_class) for r in records] == [
        ("big", "too_large"),
        ("000", None),
        ("001", None),
    ]
    assert peak < 4 * 2**20
    small = list(read_shard(shard, limits=ReadLimits(max_image_bytes=350)))
    assert [r.error and r.error.error_class for r in small] == ["too_large", None, "too_large"]


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    peaks = {}
    for count in (200, 4000):
        (shard,) = list_shards(_write_long(tmp_path, count))
        tracemalloc.start()
        assert sum(len(record.data or b"") for record in read_shard(shard)) == count * 5000
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # tarfile by itself keeps a record of every member: 4 MB more.
    assert peaks[4000] < peaks[200] + 100_000, peaks


def _write_long(folder: Path, count: int) -> str:
    with tarfile.open(folder / f"{count}.tar", "w") as archive:
        for number in range(count):
            info, data = member(f"{number}.jpg", b"x" * 5000)
            archive.addfile(info, io.BytesIO(data))
    return str(folder / f"{count}.tar")


@pytest.mark.parametrize("compress", [False, True])
def test_truncation_anywhere_is_an_error(tmp_path: Path, compress: bool) -> None:
    """Cut at every header border, in every header, in all data and in the end mark: never silently short."""
    whole = tar_bytes(images(4))
    end = max(position for position in range(0, len(whole), BLOCK) if any(whole[position : position + BLOCK])) + BLOCK
    data = gzip.compress(whole, mtime=0) if compress else whole
    cuts = sorted({0, 1, *range(7, len(data), 97)} if compress else {0, 1, *range(100, end, 128), end})
    for cut in cuts:
        records, error = until_damage(read_shard(shard_of(tmp_path, data[:cut])))
        assert error is not None, cut
        assert error.rows_read == len(records)
        assert "truncated" in str(error) or "corrupt header" in str(error)
        for number, record in enumerate(records):
            assert record.data == images(4)[number][1]
    if not compress:
        # One whole block of the end mark is enough: no image can follow it.
        assert len(read(tmp_path, whole[: end + BLOCK])) == 4


def test_every_image_before_the_damage_is_given(tmp_path: Path) -> None:
    whole = tar_bytes(images(4))
    start_of_last = whole.index(b"003.jpg")
    records, error = until_damage(read_shard(shard_of(tmp_path, whole[:start_of_last])))
    assert [r.image_id for r in records] == ["000", "001", "002"]
    assert error is not None
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.rows_read, again.shard_id) == (str(error), 3, error.shard_id)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d, at: d[:at] + b"\xff" * 20 + d[at + 20 :], "corrupt header at byte"),
        (lambda d, at: d[:at] + bytes(BLOCK) + d[at + BLOCK :], "data after the end mark"),
        (lambda d, at: d + d, "data after the end mark"),
        (lambda d, at: d + bytes(40 * 2**20), "zero bytes after the end mark"),
        (lambda d, at: b"not a tar at all" * 100, "corrupt header at byte 0"),
        (lambda d, at: b"", "the file is empty"),
        (lambda d, at: d[: at + 124] + b"77777777777\0" + d[at + 136 :], "corrupt header at byte"),
    ],
)
def test_damage_in_the_middle_is_an_error(tmp_path: Path, damage: Callable[[bytes, int], bytes], message: str) -> None:
    whole = tar_bytes(images(4))
    records, error = until_damage(read_shard(shard_of(tmp_path, damage(whole, whole.index(b"002.jpg")))))
    assert error is not None
    assert message in str(error)
    assert len(records) <= 4


def test_a_size_larger_than_the_file_is_truncation(tmp_path: Path) -> None:
    header, _ = member("a.jpg")
    header.size = 10**7
    _, error = until_damage(read_shard(shard_of(tmp_path, header.tobuf() + b"x" * 5000)))
    assert error is not None
    assert "'a.jpg' has 5000 of 10000000 bytes" in str(error)


def test_an_extended_header_cannot_claim_all_memory(tmp_path: Path) -> None:
    header, _ = member("././@PaxHeader", kind=tarfile.XHDTYPE)
    header.size = 2**32
    _, error = until_damage(read_shard(shard_of(tmp_path, header.tobuf() + bytes(10_000))))
    assert error is not None
    assert "claims 4294967296 bytes" in str(error)


def test_headers_upon_headers_are_damage(tmp_path: Path) -> None:
    header, _ = member("././@PaxHeader", b"", kind=tarfile.XHDTYPE)
    _, error = until_damage(read_shard(shard_of(tmp_path, header.tobuf() * 5000 + tar_bytes(images(1)))))
    assert error is not None
    assert "corrupt header at byte 0" in str(error)


@pytest.mark.parametrize("file_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_mutated_tars_end_or_raise_shard_error(tmp_path: Path, file_format: int) -> None:
    long, plain = member("n" * 150 + ".jpg", b"x" * 700), images(3)
    long[0].pax_headers = {"size": "700", "mtime": "1.5", "comment": "c"}
    whole = tar_bytes([long, *plain], file_format)
    shard = shard_of(tmp_path, whole)
    rng = random.Random(0)
    damaged = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data) - 8 * BLOCK)] = rng.randrange(256)
        path = Path(shard.location)
        path.write_bytes(data)
        current = shard_of(tmp_path, bytes(data))
        records, error = until_damage(read_shard(current))
        damaged += error is not None
        assert [record.row for record in records] == list(range(len(records)))
        assert error is not None or len(records) <= 4
    assert 100 < damaged < 400


def test_gzip_compressed_tars(tmp_path: Path) -> None:
    whole = tar_bytes(images(3))
    for name in ("x.tar.gz", "x.tgz", "named-plainly.tar"):
        shard = shard_of(tmp_path, gzip.compress(whole), name)
        assert [r.data for r in read_shard(shard)] == [data for _, data in images(3)]
        assert count_images(shard) == 3
    broken = bytearray(gzip.compress(whole))
    broken[-6] ^= 0xFF
    records, error = until_damage(read_shard(shard_of(tmp_path, bytes(broken), "crc.tar.gz")))
    assert len(records) == 3
    assert error is not None
    assert "CRC" in str(error)


def test_counting_reads_headers_only(tmp_path: Path) -> None:
    shard = shard_of(
        tmp_path, tar_bytes([*images(4), member("e.jpg"), member("s.jpg", kind=tarfile.SYMTYPE, target="e")])
    )
    assert count_images(shard) == len(list(read_shard(shard))) == 6
    with pytest.raises(ShardError):
        count_images(shard_of(tmp_path, tar_bytes(images(4))[:1000]))


def test_a_tar_replaced_after_listing_is_not_read_as_the_old_one(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, tar_bytes(images(2)))
    Path(shard.location).write_bytes(tar_bytes(images(3)))
    with pytest.raises(ShardError, match="has changed since it was listed"):
        list(read_shard(shard))
    Path(shard.location).unlink()
    with pytest.raises(ShardError, match="the file is gone"):
        list(read_shard(shard))


def test_tars_without_images_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes([member("a.txt", b"t"), member("a.seg.png", b"s")]))
    with pytest.raises(UsageError, match=r"no image in .*x\.tar \(members need an extension"):
        list_shards(str(path))
    path.write_bytes(tar_bytes([]))
    with pytest.raises(UsageError, match="no image in"):
        list_shards(str(path))
    path.write_bytes(b"this is not a tar")
    with pytest.raises(UsageError, match="truncated archive"):
        list_shards(str(path))


def test_segmentations_can_be_the_rows(tmp_path: Path) -> None:
    data = tar_bytes(
        [member("a.jpg", b"A"), member("b.seg.png", b"B"), member("c/d.seg.png", b"D"), member("e.seg.png")]
    )
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    [shard] = list_shards(str(path), prefer_segmentations=True)
    records = list(read_shard(shard))
    assert [(record.image_id, record.row, record.data) for record in records] == [
        ("b", 0, b"B"),
        ("c/d", 1, b"D"),
        ("e", 2, None),
    ]
    assert records[2].error is not None, "an empty member is no ground truth"
    assert count_images(shard) == 3
    [images] = list_shards(str(path))
    assert [record.image_id for record in read_shard(images)] == ["a"]


def test_tars_without_segmentations_are_read_as_images(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes(images(2)))
    [shard] = list_shards(str(tmp_path / "x.tar"), prefer_segmentations=True)
    assert count_images(shard) == len(list(read_shard(shard))) == 2
