"""The same input gives the same records from a bucket or a web server, through faults too; set-up errors are raised."""

from __future__ import annotations

import functools
import http.server
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.shapes.write import ShapesSettings, write_shapes
from maskmill.pipeline.sources import ReadLimits, ShardError, count_images, list_shards, read_shard
from maskmill.pipeline.sources.files import fetch
from maskmill.pipeline.storage.files import is_transient
from tests.pipeline.faulty_proxy import FaultyProxy

IMAGES = 24
FORMATS = ["wds", "parquet", "folder"]
Content = dict[str, tuple[bytes | None, bytes | None]]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    for name in FORMATS:
        write_shapes(str(root / name), ShapesSettings(images=IMAGES, seed=1, file_format=name, shard_size=10))
    (root / "list.txt").write_text("".join(f"folder/{number:06d}.jpg\n" for number in range(IMAGES)))
    return root


def content(uri: str, **options: Any) -> Content:
    shards = list_shards(uri, shard_size=10, **options)
    records = [r for shard in shards for r in read_shard(shard, options.get("storage_options"), with_segmentation=True)]
    assert len(shards) == 3
    assert len({r.image_id for r in records}) == len(records)
    return {r.image_id.removeprefix("folder/"): (r.data, r.segmentation) for r in records}


@pytest.fixture(scope="module")
def expected(shapes: Path) -> Content:
    found = content(str(shapes / "folder"))
    assert len(found) == IMAGES
    assert all(data and label for data, label in found.values())
    return found


def test_all_local_formats_agree(shapes: Path, expected: Content) -> None:
    for name in ("wds", "parquet", "list.txt", "wds/{00000..00002}.tar", "parquet/*.parquet"):
        assert content(str(shapes / name)) == expected


def test_a_bucket_over_http(shapes: Path, expected: Content, s3_bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_bucket.upload(shapes, "data")
    s3_bucket.put("data/", b"")
    root = f"{s3_bucket.uri}/data"
    for name in ("wds", "parquet", "folder/", "list.txt", "wds/{00000..00002}.tar", "parquet/*.parquet", "w*/0*.tar"):
        assert content(f"{root}/{name}") == expected, name
    shards = list_shards(f"{root}/wds")
    assert shards[0].uri == f"{root}/wds/00000.tar"
    assert [count_images(shard) for shard in shards] == [10, 10, 4]
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert content(f"{root}/wds", storage_options=s3_bucket.storage_options) == expected


def test_what_is_wrong_in_a_bucket(shapes: Path, faulty_s3: FaultyProxy, s3_bucket: Any) -> None:
    s3_bucket.upload(shapes / "wds", "wds")
    with pytest.raises(UsageError, match=r"no such file or folder: s3://.*/none"):
        list_shards(f"{s3_bucket.uri}/none")
    with pytest.raises(UsageError, match="1 of the 2 files"):
        list_shards(f"{s3_bucket.uri}/wds/{{00002..00003}}.tar")
    with pytest.raises(UsageError, match=r"no such .*: s3://no-such-bucket-at-all"):
        list_shards("s3://no-such-bucket-at-all/x")
    s3_bucket.upload(shapes / "parquet", "parquet")
    (table, *_) = list_shards(f"{s3_bucket.uri}/parquet")
    (shard, *_) = list_shards(f"{s3_bucket.uri}/wds")
    faulty_s3.fault = lambda method, path, number: "403" if method == "GET" else None
    for each in (table, shard):
        with pytest.raises(PermissionError):
            list(read_shard(each))
    faulty_s3.fault = lambda method, path, number: "403"
    with pytest.raises(UsageError, match="no permission to read s3://"):
        list_shards(f"{s3_bucket.uri}/wds")
    with pytest.raises(PermissionError):
        list(read_shard(shard))
    faulty_s3.fault = lambda method, path, number: None
    s3_bucket.put("wds/00000.tar", b"other")
    with pytest.raises(ShardError, match="has changed"):
        list(read_shard(shard))


def test_missing_objects_and_missing_buckets(faulty_s3: FaultyProxy, s3_bucket: Any) -> None:
    s3_bucket.put("a.jpg", b"A")
    s3_bucket.put("empty.jpg", b"")
    s3_bucket.put("list.txt", b"a.jpg\nnone.jpg\nempty.jpg\ns3://Not A Bucket!/x.jpg\n")
    (shard,) = list_shards(f"{s3_bucket.uri}/list.txt")
    records = list(read_shard(shard))
    assert [r.error and r.error.error_class for r in records] == [None, "not_found", "empty", "bad_uri"]
    s3_bucket.put("list.txt", b"s3://no-such-bucket-at-all/x.jpg\n")
    (shard,) = list_shards(f"{s3_bucket.uri}/list.txt")
    assert [r.error and r.error.error_class for r in read_shard(shard)] == ["not_found"]
    with pytest.raises(FileNotFoundError):
        list(read_shard(shard, limits=ReadLimits(own_stores=("s3://no-such-bucket-at-all",))))
    s3_bucket.put("list.txt", b"a.jpg\n")
    (shard,) = list_shards(f"{s3_bucket.uri}/list.txt")
    faulty_s3.fault = lambda method, path, number: "403" if path.endswith("a.jpg") else None
    with pytest.raises(PermissionError):
        list(read_shard(shard))


@pytest.mark.parametrize("name", [*FORMATS, "list.txt"])
def test_records_are_exact_through_faults(
    shapes: Path, expected: Content, faulty_s3: FaultyProxy, s3_bucket: Any, name: str
) -> None:
    s3_bucket.upload(shapes, "data")
    rng = random.Random(name)
    faulty_s3.fault = lambda method, path, number: (
        rng.choice(["500", "503", "reset", "truncate"]) if rng.random() < 0.1 else None
    )
    assert content(f"{s3_bucket.uri}/data/{name}") == expected
    assert faulty_s3.broken > 0


@pytest.fixture
def web(shapes: Path) -> Iterator[str]:
    """A plain web server, which knows no ranges."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(shapes)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_plain_web_server(web: str, expected: Content, tmp_path: Path) -> None:
    assert content(f"{web}/wds/{{00000..00002}}.tar") == expected
    assert content(f"{web}/parquet/{{00000..00002}}.parquet") == expected
    assert content(f"{web}/list.txt") == expected
    with pytest.raises(UsageError, match="no such file or folder"):
        list_shards(f"{web}/none.tar")
    manifest = tmp_path / "urls.txt"
    manifest.write_text(f"{web}/folder/000000.jpg?token=hunter2\n{web}/folder/none.jpg\n")
    (shard,) = list_shards(str(manifest), storage_options={"key": "for s3 only"})
    records = list(read_shard(shard, {"key": "for s3 only"}, limits=ReadLimits(allow_private=True)))
    assert records[0].data == expected["000000"][0]
    assert [r.error and r.error.error_class for r in records] == [None, "not_found"]
    assert records[0].image_id == f"{web}/folder/000000"
    assert not any("hunter2" in str((r.image_id, r.uri)) for r in records)


def test_a_web_server_in_trouble_is_no_bad_data(web: str, expected: Content, shapes: Path) -> None:
    proxy = FaultyProxy(web)
    (shapes / "urls.txt").write_text("folder/000000.jpg\n")
    (shard,) = list_shards(f"{proxy.url}/urls.txt")

    def fault_images(*kinds: str) -> None:
        left = list(kinds)
        proxy.fault = lambda method, path, number: left.pop(0) if path.endswith(".jpg") and left else None

    before = proxy.broken
    fault_images("reset", "503", "truncate")
    assert [r.data for r in read_shard(shard)] == [expected["000000"][0]]
    assert proxy.broken == before + 3
    # What the server refuses is a matter of that page alone; that it does not answer concerns all of the run.
    fault_images(*["403"] * 2)
    assert [r.error and r.error.error_class for r in read_shard(shard)] == ["forbidden"]
    fault_images(*["503"] * 99)
    with pytest.raises(Exception, match=r"000000\.jpg") as failed:
        list(read_shard(shard))
    assert is_transient(failed.value)
    proxy.close()
    with pytest.raises(Exception, match=r"000000\.jpg") as refused:
        fetch(f"{proxy.url}/folder/000000.jpg", None, ReadLimits())
    assert is_transient(refused.value)
    started = time.monotonic()
    with pytest.raises(ConnectionError, match=f"cannot reach {proxy.url}/x.tar"):
        list_shards(f"{proxy.url}/x.tar")
    assert time.monotonic() - started < 60  # not the minutes that a store in trouble is given
