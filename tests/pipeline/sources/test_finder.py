"""Images are found again by the URI of their labels, as they were read for labelling."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from maskmill.pipeline.sources import Shard, list_shards, read_shard
from maskmill.pipeline.sources.finder import ImageFinder
from tests.pipeline.written_run import RunSettings, write_run


def records_of(shard: Shard) -> dict[int, tuple[str, bytes]]:
    return {record.row: (record.uri, record.data or b"") for record in read_shard(shard)}


@pytest.mark.parametrize("source", ["wds", "parquet", "folder"])
def test_every_row_comes_back_with_its_bytes_whatever_the_source(tmp_path: Path, source: str) -> None:
    write_run(tmp_path, RunSettings(images=20, source=source))
    pattern = {"wds": "images/*.tar", "parquet": "images/*.parquet", "folder": "images"}[source]
    for shard in list_shards(str(tmp_path / pattern), shard_size=16):
        records = records_of(shard)
        found = list(ImageFinder().read({row: uri for row, (uri, _) in records.items()}))
        assert [(row, fetched.data) for row, fetched in found] == [(row, data) for row, (_, data) in records.items()]
        wanted = sorted(records)[1:4:2]
        few = {row: records[row][0] for row in wanted}
        assert [row for row, _ in ImageFinder().read(few)] == wanted


def test_a_manifest_names_files(tmp_path: Path) -> None:
    write_run(tmp_path, RunSettings(images=3, source="folder"))
    manifest = tmp_path / "list.txt"
    manifest.write_text("\n".join(str(path) for path in sorted((tmp_path / "images").rglob("*.jpg"))))
    (shard,) = list_shards(str(manifest))
    records = records_of(shard)
    found = dict(ImageFinder().read({row: uri for row, (uri, _) in records.items()}))
    assert {row: fetched.data for row, fetched in found.items()} == {row: data for row, (_, data) in records.items()}


def test_images_that_are_gone_are_named_so(tmp_path: Path) -> None:
    write_run(tmp_path, RunSettings(images=3))
    tar = tmp_path / "images" / "00000.tar"
    uris = {0: f"{tar}#000000.jpg", 1: f"{tar}#another.jpg", 7: f"{tar}#000007.jpg"}
    found = dict(ImageFinder().read(uris))
    assert found[0].data
    assert [str(found[row].error) for row in (1, 7)] == ["the image is no longer where it was labelled"] * 2


def test_reading_ends_at_the_limit_of_bytes(tmp_path: Path) -> None:
    write_run(tmp_path, RunSettings(images=10))
    tar = tmp_path / "images" / "00000.tar"
    with tarfile.open(tar) as archive:
        sizes = [member.size for member in archive if member.name.endswith(".jpg")]
    uris = {row: f"{tar}#{row:06d}.jpg" for row in range(10)}
    assert len(list(ImageFinder().read(uris, max_bytes=sum(sizes[:4])))) == 5
    assert len(list(ImageFinder().read(uris))) == 10
