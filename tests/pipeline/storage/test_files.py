"""Files on any store: whole or absent, tried again when that helps, and never mistaken for something else."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.storage.files import (
    is_missing,
    is_permission,
    is_transient,
    open_atomic,
    open_filesystem,
    parse_storage_options,
    public_uri,
    read_bytes,
    with_retries,
    write_atomic,
)
from tests.pipeline.faulty_proxy import FaultyProxy


def test_local_paths_and_file_uris_are_the_same(tmp_path: Path) -> None:
    for uri in (str(tmp_path / "a"), f"file://{tmp_path}/a"):
        fs, path = open_filesystem(uri, {"key": "meant for another store"})
        assert path == str(tmp_path / "a")
        write_atomic(fs, path, b"x")
        assert read_bytes(fs, path) == b"x"


def _write_half(fs: Any, path: str) -> None:
    with open_atomic(fs, path) as stream:
        stream.write(b"half of it")
        stream.flush()
        raise RuntimeError("half-way")


def test_a_local_write_replaces_whole_files_and_leaves_no_others(tmp_path: Path) -> None:
    fs, path = open_filesystem(str(tmp_path / "deep" / "down" / "f.bin"))
    write_atomic(fs, path, b"old")
    with pytest.raises(RuntimeError, match="half-way"):
        _write_half(fs, path)
    assert Path(path).read_bytes() == b"old"
    write_atomic(fs, path, b"new")
    assert Path(path).read_bytes() == b"new"
    assert os.listdir(Path(path).parent) == ["f.bin"]
    plain = Path(path).with_name("plain")
    plain.write_bytes(b"")
    assert stat.S_IMODE(os.stat(path).st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_s3_from_the_environment_and_from_options(s3_bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, path = open_filesystem(f"{s3_bucket.uri}/a/b.bin")
    write_atomic(fs, path, b"one")
    with open_atomic(fs, f"{path}.2") as stream:
        stream.write(b"two")
        stream.flush()
        assert s3_bucket.keys() == ["a/b.bin"]
    assert s3_bucket.get("a/b.bin.2") == b"two"
    with pytest.raises(RuntimeError, match="half-way"):
        _write_half(fs, f"{path}.3")
    assert s3_bucket.keys() == ["a/b.bin", "a/b.bin.2"]

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    flat = s3_bucket.storage_options
    nested = {"key": flat["key"], "secret": flat["secret"], "client_kwargs.endpoint_url": flat["endpoint_url"]}
    for options in (flat, nested):
        fs, path = open_filesystem(f"{s3_bucket.uri}/a/b.bin", options)
        assert read_bytes(fs, path) == b"one"


def test_what_another_process_wrote_is_seen_at_once(s3_bucket: Any) -> None:
    fs, path = open_filesystem(s3_bucket.uri)
    assert fs.ls(path) == []
    s3_bucket.put("new", b"1")
    assert fs.ls(path) == [f"{s3_bucket.name}/new"]
    assert fs.exists(f"{path}/new")


@pytest.mark.parametrize("kind", ["500", "503", "reset", "truncate"])
def test_a_failing_store_is_tried_again(faulty_s3: FaultyProxy, s3_bucket: Any, kind: str) -> None:
    data = os.urandom(200_000)
    fs, path = open_filesystem(f"{s3_bucket.uri}/x.bin")
    broken = iter(range(8))

    def break_two_of_each(method: str, path: str, number: int) -> str | None:
        if method not in ("PUT", "GET") or (kind == "truncate" and method == "PUT"):
            return None
        return kind if next(broken, 8) < 2 else None

    faulty_s3.fault = break_two_of_each
    write_atomic(fs, path, data)
    assert s3_bucket.get("x.bin") == data
    broken = iter(range(8))
    assert read_bytes(fs, path) == data
    assert faulty_s3.broken == (2 if kind == "truncate" else 4)


def test_a_stalled_connection_is_given_up_and_tried_again(faulty_s3: FaultyProxy, s3_bucket: Any) -> None:
    s3_bucket.put("x.bin", b"here")
    fs, path = open_filesystem(f"{s3_bucket.uri}/x.bin", {"config_kwargs.read_timeout": "1"})
    faulty_s3.fault = lambda method, path, number: "stall" if number == 0 else None
    faulty_s3.stall_s = 3600  # the answer can only be that of a second try
    assert read_bytes(fs, path) == b"here"
    assert faulty_s3.broken == 1


def test_a_store_that_stays_broken_raises_a_transient_error(faulty_s3: FaultyProxy, s3_bucket: Any) -> None:
    fs, path = open_filesystem(f"{s3_bucket.uri}/x.bin")
    faulty_s3.fault = lambda method, path, number: "reset"
    with pytest.raises(Exception, match=r".") as caught:
        with_retries(lambda: fs.cat_file(path), attempts=1)
    assert is_transient(caught.value)
    assert not is_permission(caught.value)
    assert not is_missing(caught.value)


def test_permission_and_absence_are_told_apart_from_faults(faulty_s3: FaultyProxy, s3_bucket: Any) -> None:
    s3_bucket.put("x.bin", b"1")
    fs, path = open_filesystem(f"{s3_bucket.uri}/x.bin")
    faulty_s3.fault = lambda method, path, number: "403"
    for call in (lambda: fs.cat_file(path), lambda: fs.info(path), lambda: fs.pipe_file(path, b"2")):
        before = faulty_s3.requests
        with pytest.raises(PermissionError) as denied:
            with_retries(call)
        assert is_permission(denied.value)
        assert not is_transient(denied.value)
        assert faulty_s3.requests - before <= 2
    faulty_s3.fault = lambda method, path, number: None
    with pytest.raises(FileNotFoundError) as absent:
        with_retries(lambda: fs.cat_file(f"{s3_bucket.name}/none"))
    assert is_missing(absent.value)
    assert not is_transient(absent.value)
    with pytest.raises(FileNotFoundError) as no_bucket:
        fs.cat_file("no-such-bucket-anywhere/none")
    assert not is_missing(no_bucket.value)


def test_no_credentials_is_a_matter_of_permission(s3_bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fs, path = open_filesystem(f"{s3_bucket.uri}/x", {"default_block_size": 5 * 2**20})
    with pytest.raises(Exception, match="credentials") as caught:
        fs.cat_file(path)
    assert is_permission(caught.value)
    assert not is_transient(caught.value)


@pytest.mark.parametrize(
    ("error", "transient", "permission", "missing"),
    [
        (TimeoutError(), True, False, False),
        (ConnectionResetError(), True, False, False),
        (OSError(5, "Input/output error"), True, False, False),
        (OSError(28, "No space left on device"), False, False, False),
        (PermissionError(13, "denied"), False, True, False),
        (FileNotFoundError(2, "none"), False, False, True),
        (ValueError("nonsense"), False, False, False),
        (MemoryError(), False, False, False),
    ],
)
def test_kinds_of_error(error: Exception, transient: bool, permission: bool, missing: bool) -> None:
    assert (is_transient(error), is_permission(error), is_missing(error)) == (transient, permission, missing)
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = error
    assert is_transient(wrapped) == transient


def test_retries_are_few_and_for_transient_errors_only() -> None:
    calls = []

    def fail(error: Exception, times: int) -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    assert with_retries(lambda: fail(TimeoutError(), 2), attempts=3, first_delay_s=0.001) == "done"
    assert len(calls) == 3
    calls.clear()
    with pytest.raises(TimeoutError):
        with_retries(lambda: fail(TimeoutError(), 9), attempts=3, first_delay_s=0.001)
    assert len(calls) == 3
    calls.clear()
    with pytest.raises(ValueError, match="not this"):
        with_retries(lambda: fail(ValueError("not this"), 9), attempts=3)
    assert len(calls) == 1


def test_options_from_the_command_line() -> None:
    assert parse_storage_options(["key=a", "client_kwargs.region_name=b=c"]) == {
        "key": "a",
        "client_kwargs.region_name": "b=c",
    }
    with pytest.raises(UsageError, match="number 2") as caught:
        parse_storage_options(["key=a", "hunter2"])
    assert "hunter2" not in str(caught.value)


def test_wrong_uris_and_options_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Protocol not known: nosuch"):
        open_filesystem("nosuch://x/y")
    with pytest.raises(UsageError, match="'key' has a value and cannot"):
        open_filesystem("s3://x/y", {"key": "a", "key.b": "c"})
    with pytest.raises(
        UsageError, match=r"'endpont_url' for s3://; choose from: .*endpoint_url, .*key, .*profile, "
    ) as caught:
        open_filesystem("s3://x/y", {"endpont_url": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_numbers_and_switches_get_their_types(s3_bucket: Any) -> None:
    fs, _ = open_filesystem(s3_bucket.uri, {"max_concurrency": "3", "use_ssl": "false", "secret": "123456"})
    assert (fs.max_concurrency, fs.use_ssl, fs.secret) == (3, False, "123456")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://bucket/key=1/x?y", "s3://bucket/key=1/x?y"),
        ("/data/a@b/c.tar", "/data/a@b/c.tar"),
        ("https://user:pass@host:8080/x.jpg", "https://host:8080/x.jpg"),
        (
            "https://h/x.jpg?size=3&X-Amz-Signature=abc&X-Amz-Credential=d&sig=e",
            "https://h/x.jpg?size=3&X-Amz-Signature=...&X-Amz-Credential=...&sig=...",
        ),
    ],
)
def test_secrets_of_a_uri_are_not_shown(uri: str, shown: str) -> None:
    assert public_uri(uri) == shown
