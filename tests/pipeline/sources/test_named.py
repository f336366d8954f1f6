"""What a list names is not trusted, and no line of a list ends the run: every failure is a row with the true cause."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from maskmill.pipeline.sources import ImageRecord, ReadLimits, list_shards, read_shard
from maskmill.pipeline.sources.hosts import FIRST_PAUSE_S, GIVE_UP_AFTER, Hosts
from maskmill.pipeline.sources.shard import DEFAULT_LIMITS
from maskmill.pipeline.storage.web import is_public
from tests.pipeline.odd_server import OddServer

IMAGE = b"bytes of an image"
FREE = ReadLimits(allow_private=True)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts at an entry, and no memory of the servers of earlier tests."""
    monkeypatch.setattr("maskmill.pipeline.sources.named.ATTEMPTS", 2)
    monkeypatch.setattr("maskmill.pipeline.sources.named._HOSTS", Hosts())


@pytest.fixture
def web() -> Iterator[OddServer]:
    server = OddServer({"/a.jpg": IMAGE})
    yield server
    server.close()


@pytest.fixture
def other() -> Iterator[OddServer]:
    """A server on another host of this machine."""
    server = OddServer({"/a.jpg": IMAGE}, host="127.0.0.2")
    yield server
    server.close()


def refused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read(source: Path | str, limits: ReadLimits = DEFAULT_LIMITS, **options: str) -> list[ImageRecord]:
    shards = list_shards(str(source), storage_options=options)
    return [record for shard in shards for record in read_shard(shard, options, limits=limits)]


def outcomes(records: list[ImageRecord]) -> list[str]:
    return ["read" if record.error is None else record.error.error_class for record in records]


def lines(folder: Path, *uris: str) -> Path:
    manifest = folder / "list.txt"
    manifest.write_text("".join(f"{uri}\n" for uri in uris))
    return manifest


def entries(web: OddServer) -> dict[str, tuple[str, str]]:
    """Address -> (error class, part of the message) of all that goes wrong at a server."""
    statuses = {
        401: "forbidden",
        403: "forbidden",
        404: "not_found",
        410: "not_found",
        429: "rate_limited",
        451: "rejected",
        500: "server_error",
    }
    refused = f"127.0.0.1:{refused_port()}"
    return {
        **{f"{web.url}/{status}?token=pl4nted": (name, f"answered {status}") for status, name in statuses.items()},
        f"{web.url}/a.jpg": ("read", ""),
        f"{web.url}/reset": ("unreachable", "onnect"),
        f"{web.url}/to?/a.jpg": ("read", ""),
        f"{web.url}/loop": ("rejected", "without end"),
        f"{web.url}/to?file:///etc/hostname": ("forbidden_uri", "file:///etc/hostname"),
        f"{web.url}/endless": ("unreachable", "of 10 bytes"),
        f"https://{web.host}/a.jpg": ("unreachable", "SSL"),
        f"http://{refused}/a.jpg": ("unreachable", f"Cannot connect to host {refused}"),
        "http://nosuch.invalid/a.jpg": ("unreachable", "nosuch.invalid"),
        "http://[example.com/a.jpg": ("bad_uri", "cannot be understood"),
        "http:///a.jpg": ("bad_uri", "cannot be understood"),
        "http://127.0.0.1:99999/a.jpg": ("bad_uri", ""),
        "nosuch://x/a.jpg": ("bad_uri", "no store of the kind nosuch://"),
        "file://another/a.jpg": ("bad_uri", "names the machine another"),
        "file:///a%00.jpg": ("bad_uri", ""),
        "gs://bucket/a.jpg": ("missing_package", "gcsfs"),
    }


@pytest.mark.parametrize("form", ["txt", "parquet"])
def test_whatever_a_line_does_the_others_are_read_and_it_says_why(web: OddServer, tmp_path: Path, form: str) -> None:
    expected = entries(web)
    source = lines(tmp_path, *expected)
    if form == "parquet":
        source = tmp_path / "list.parquet"
        pq.write_table(pa.table({"url": list(expected)}), source)
    records = read(source, FREE)
    found = dict(zip(expected, outcomes(records), strict=True))
    assert found == {uri: name for uri, (name, _) in expected.items()}
    for record, (_, part) in zip(records, expected.values(), strict=True):
        assert record.error is None or part in record.error.message
    assert "pl4nted" not in str([(r.uri, r.image_id, r.error and r.error.message) for r in records])


@pytest.mark.parametrize(
    "uri",
    [
        "reference::http://host/refs.json",
        "zip://a.jpg::http://host/a.zip",
        "filecache::s3://bucket/a.jpg",
        "simplecache::http://host/a.jpg",
        "github://owner:repo@main/a.jpg",
        "ftp://host/a.jpg",
        "sftp://host/a.jpg",
        "memory://a.jpg",
        "reference://a.jpg",
        "dir://a.jpg",
        "data:image/png;base64,AAAA",
        "data://a.jpg",
    ],
)
def test_only_common_stores_and_no_address_inside_of_another(tmp_path: Path, uri: str) -> None:
    (record,) = read(lines(tmp_path, uri), ReadLimits(allow_local=True, allow_private=True))
    assert record.error is not None
    assert record.error.error_class == "forbidden_uri"
    assert record.error.message


def test_files_of_this_machine_only_from_its_own_lists(web: OddServer, s3_bucket: Any, tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(IMAGE)
    named = f"{image}\nfile://{image}\nfile:{image}\nlocal://{image}\nfile://localhost{image}\n"
    web.files["/list.txt"] = named.encode()
    s3_bucket.put("list.txt", named.encode())
    for source in (f"{web.url}/list.txt", f"{s3_bucket.uri}/list.txt"):
        assert outcomes(read(source)) == ["forbidden_uri"] * 5
        assert outcomes(read(source, ReadLimits(allow_local=True))) == ["read"] * 5
    assert outcomes(read(lines(tmp_path, *named.split()))) == ["read"] * 5


def test_private_addresses_in_every_spelling_and_by_every_way(web: OddServer, tmp_path: Path) -> None:
    port = web.port
    hosts = ("127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]", "[::1]")
    uris = [f"http://{host}:{port}/a.jpg" for host in hosts]
    uris += ["http://169.254.169.254/latest/meta-data", "http://10.0.0.1/a.jpg", "https://[fe80::1]/a.jpg"]
    found = outcomes(read(lines(tmp_path, *uris)))
    assert set(found) <= {"forbidden_uri", "bad_uri"}
    # What is no form of an address in the standard of the web is refused as such.
    assert found == ["forbidden_uri"] * 2 + ["bad_uri", "forbidden_uri"] + ["bad_uri"] * 2 + ["forbidden_uri"] * 5
    assert web.seen == []
    assert outcomes(read(lines(tmp_path, *uris[:2]), FREE)) == ["read", "read"]


def test_a_list_at_a_private_address_names_files_there_and_nowhere_else(web: OddServer, other: OddServer) -> None:
    uris = ("a.jpg", f"{web.url}/a.jpg", f"{other.url}/a.jpg", "to?/a.jpg", f"to?{other.url}/a.jpg")
    web.files["/list.txt"] = "\n".join(uris).encode()
    expected = ["read", "read", "forbidden_uri", "read", "forbidden_uri"]
    assert outcomes(read(f"{web.url}/list.txt")) == expected
    assert other.seen == []
    own = ReadLimits(own_stores=(other.url,))
    assert outcomes(read(f"{web.url}/list.txt", own)) == ["read"] * 5
    # What went there by keep-alive before may not any more: connections are of one policy.
    assert outcomes(read(f"{web.url}/list.txt")) == expected


def test_storage_options_go_to_the_lists_own_store_only(web: OddServer, other: OddServer) -> None:
    web.files["/list.txt"] = f"a.jpg\n{other.url}/a.jpg\nto?{other.url}/b.jpg\n".encode()
    other.files["/b.jpg"] = IMAGE
    secrets = {
        "headers.Authorization": "pl4nted",
        "headers.X-Key": "pl4nted",
        "client_kwargs.headers.Cookie": "pl4nted",
    }
    assert outcomes(read(f"{web.url}/list.txt", FREE, **secrets)) == ["read"] * 3
    for path in ("/list.txt", "/a.jpg"):
        assert all({"authorization", "x-key", "cookie"} <= set(headers) for headers in web.headers(path)), path
    assert other.headers("/a.jpg")
    assert other.headers("/b.jpg")
    assert "pl4nted" not in str(other.seen)
    read(f"{web.url}/list.txt", ReadLimits(allow_private=True, own_stores=(other.url,)), **secrets)
    assert "pl4nted" in str(other.headers("/a.jpg"))


@pytest.fixture
def new_clients() -> Iterator[None]:
    """Clients of S3 keep the credentials that they began with."""
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("new_clients")
def test_storage_options_stay_with_one_bucket(s3_bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_bucket.put("a.jpg", IMAGE)
    manifest = lines(tmp_path, f"{s3_bucket.uri}/a.jpg", "s3://another-bucket/a.jpg")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = s3_bucket.storage_options
    assert outcomes(read(manifest, **options)) == ["forbidden", "forbidden"]
    limits = ReadLimits(own_stores=(s3_bucket.uri,))
    assert outcomes(read(manifest, limits, **options)) == ["read", "forbidden"]


def test_public_and_other_addresses() -> None:
    assert all(is_public(address) for address in ("8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"))
    others = "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255"
    others += " ::1 :: fe80::1%eth0 fc00::1 ff02::1 ::ffff:10.0.0.1 64:ff9b::7f00:1 2002:7f00:1::"
    assert [address for address in others.split() if is_public(address)] == []


def test_a_silent_host_costs_its_patience_a_few_times_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("maskmill.pipeline.storage.files.time.sleep", waits.append)
    port = refused_port()
    records = read(lines(tmp_path, *(f"http://127.0.0.1:{port}/{number}.jpg" for number in range(2000))), FREE)
    assert set(outcomes(records)) == {"unreachable"}
    # Those that were in flight together may each have waited; none after them.
    assert len(waits) <= 16 + GIVE_UP_AFTER


def test_a_host_is_asked_again_after_a_pause_that_grows() -> None:
    now = 0.0
    hosts = Hosts(clock=lambda: now)
    for _ in range(GIVE_UP_AFTER - 1):
        hosts.failed("h")
    assert hosts.attempts("h", 5) == 5
    hosts.failed("h")
    assert [hosts.attempts("h", 5), hosts.attempts("another", 5)] == [0, 5]
    now = FIRST_PAUSE_S
    assert [hosts.attempts("h", 5), hosts.attempts("h", 5)] == [1, 0]
    hosts.failed("h")
    now += FIRST_PAUSE_S
    assert hosts.attempts("h", 5) == 0
    now += FIRST_PAUSE_S
    assert hosts.attempts("h", 5) == 1
    hosts.answered("h")
    assert hosts.attempts("h", 5) == 5
