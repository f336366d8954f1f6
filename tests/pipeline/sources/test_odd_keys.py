"""Whatever a key of a store looks like, its image is read once, and the labels' address leads back to it."""

from __future__ import annotations

import io
import tarfile
import unicodedata
from typing import Any

import pytest

from maskmill.pipeline.sources import ImageRecord, list_shards, read_shard
from maskmill.pipeline.sources.finder import ImageFinder

KEYS = (
    "a.jpg",
    "/a.jpg",
    "//a.jpg",
    "sub/a.jpg",
    "sub//a.jpg",
    "dots./b..jpg",
    "100%.jpg",
    "a%20b.jpg",
    "a b.jpg",
    "a+b.jpg",
    "a#b.jpg",
    "what?.jpg",
    "a::b.jpg",
    "a&b=c.jpg",
    "a@b:c.jpg",
    unicodedata.normalize("NFD", "ü.jpg"),
    unicodedata.normalize("NFC", "ü.jpg"),
    "写真/図.jpg",
)


def content(key: str) -> bytes:
    return f"image at {key}".encode()


def read(uri: str) -> list[ImageRecord]:
    return [record for shard in list_shards(uri, shard_size=4) for record in read_shard(shard)]


def check(records: list[ImageRecord], prefix: str, keys: tuple[str, ...] = KEYS) -> None:
    """Every key was read once, under an id of its own, and is found again by its address."""
    assert sorted((r.data or b"").decode() for r in records) == sorted(content(prefix + key).decode() for key in keys)
    assert len({r.image_id for r in records}) == len(keys)
    found = dict(ImageFinder().read({number: r.uri for number, r in enumerate(records)}))
    assert [found[number].data for number in range(len(records))] == [r.data for r in records]


@pytest.mark.parametrize("prefix", ["in/", "", "in//", "/in/"])
def test_folders(s3_bucket: Any, prefix: str) -> None:
    for key in KEYS:
        s3_bucket.put(prefix + key, content(prefix + key))
    # "s3://bucket/in//" means the folder "in", as the closing slashes of every folder count for nothing.
    shown = {"in//": ("in/", tuple("/" + key for key in KEYS))}.get(prefix, (prefix, KEYS))
    check(read(f"{s3_bucket.uri}/{prefix}"), *shown)


def test_a_folder_and_the_same_with_another_slash(s3_bucket: Any) -> None:
    for key in ("in/a.jpg", "/in/a.jpg", "//in/a.jpg"):
        s3_bucket.put(key, content(key))
    for prefix in ("in", "/in", "//in"):
        check(read(f"{s3_bucket.uri}/{prefix}"), f"{prefix}/", ("a.jpg",))


def test_manifests_beside_the_keys(s3_bucket: Any) -> None:
    # A relative entry with "::" would be one address inside of another, and one with a slash in front a local path.
    keys = tuple(key for key in KEYS if not key.startswith("/") and "::" not in key)
    for prefix in ("in/", "/in//"):
        for key in keys:
            s3_bucket.put(prefix + key, content(prefix + key))
        s3_bucket.put(f"{prefix}list.csv", "\n".join(["uri", *(f'"{key}"' for key in keys)]).encode())
        check(read(f"{s3_bucket.uri}/{prefix}list.csv"), prefix, keys)
    for key in KEYS:
        s3_bucket.put(f"in/{key}", content(f"in/{key}"))
    s3_bucket.put("list.txt", "\n".join(f"{s3_bucket.uri}/in/{key}" for key in KEYS).encode())
    check(read(f"{s3_bucket.uri}/list.txt"), "in/")


@pytest.mark.parametrize("pattern", ["in/*.tar", "in/**/*.tar", "in//*.tar", "/in/*.tar", "in/{a,b}//*.tar"])
def test_globs_of_tars(s3_bucket: Any, pattern: str) -> None:
    name = {"in/**/*.tar": "in/a//x.tar", "in/{a,b}//*.tar": "in/a//x.tar"}.get(pattern, pattern.replace("*", "x"))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for key in ("a#b.jpg", "what?.jpg"):
            member = tarfile.TarInfo(key)
            member.size = len(content(key))
            archive.addfile(member, io.BytesIO(content(key)))
    s3_bucket.put(name, packed.getvalue())
    if "{" in pattern:
        s3_bucket.put("in/b//y.tar", packed.getvalue())
    else:
        s3_bucket.put("in/a/other.txt", b"")
    records = read(f"{s3_bucket.uri}/{pattern}")
    assert len(records) == (4 if "{" in pattern else 2)
    found = dict(ImageFinder().read({r.row: r.uri for r in records[:2]}))
    assert [found[row].data for row in (0, 1)] == [content("a#b.jpg"), content("what?.jpg")]
