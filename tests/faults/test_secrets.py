"""Planted secrets are looked for in everything a run leaves behind: output, report, logs, Ray's own logs."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import Bucket
from tests.faults.attempts import Attempt
from tests.faults.images import small_jpeg, write_tars
from tests.faults.kill_matrix import Place
from tests.faults.tiny_model import CLASSES
from tests.pipeline.faulty_proxy import FaultyProxy

PLANTED = "pl4nted"
COMMON = ("--classes", ",".join(CLASSES), "--cpus", "2", "--gpus", "0", "--max-failed", "0.9", "--log-format", "json")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server over ``tmp_path``/web."""
    (tmp_path / "web").mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "web")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def places_of_secrets(*folders: Path) -> list[str]:
    """Every file below ``folders`` that holds what was planted; Parquet files are searched by value and metadata."""
    found = []
    for path in (path for folder in folders for path in [folder, *folder.rglob("*")] if path.is_file()):
        text = path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            text += f"{table.to_pylist()} {table.schema.metadata}"
        if PLANTED in text:
            at = text.index(PLANTED)
            found.append(f"{path}: ...{text[max(0, at - 200) : at + 60]}...")
    return found


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    assert places_of_secrets(tmp_path) == []
    (tmp_path / "log").write_text(f"token={PLANTED}-1")
    assert len(places_of_secrets(tmp_path)) == 1


@pytest.mark.slow
def test_signed_addresses(web: str, tmp_path: Path, ray_folder: Path, place: Place) -> None:
    (tmp_path / "web" / "good.jpg").write_bytes(small_jpeg(1))
    (tmp_path / "web" / "bad.jpg").write_bytes(b"no image")
    signature = f"X-Amz-Credential={PLANTED}-1&X-Amz-Signature={PLANTED}-2&token={PLANTED}-3"
    uris = [f"http://{web}/{name}?{signature}" for name in ("good.jpg", "bad.jpg", "gone.jpg")]
    uris.append(f"http://user:{PLANTED}-4@{web}/gone-too.jpg")
    (tmp_path / "web" / "list.txt").write_text("\n".join(uris) + "\n")
    output = tmp_path / "out"
    source = f"http://{web}/list.txt?sig={PLANTED}-5"
    label = Attempt(arguments=["label", source, str(output), *COMMON, *place.arguments], log=tmp_path / "label.log")
    assert label.run() == 0, label.log.read_text()
    again = ["retry", str(output), "--input", source, *place.arguments]
    retry = Attempt(arguments=again, log=tmp_path / "retry.log")
    assert retry.run() == 0, retry.log.read_text()
    report = Attempt(arguments=["report", str(output)], log=tmp_path / "report.log")
    assert report.run() == 0, report.log.read_text()
    assert (output / "report" / "index.html").exists()
    assert len(list(output.glob("errors/*.parquet"))) == 1
    assert "sig=..." in (output / "run.json").read_text()
    assert places_of_secrets(output, label.log, retry.log, report.log, ray_folder) == []


@pytest.mark.slow
def test_credentials_of_a_store_also_when_it_refuses_them(
    s3_bucket: Bucket, tmp_path: Path, ray_folder: Path, place: Place
) -> None:
    s3_bucket.upload(write_tars(tmp_path / "in", 20, 10), "in")
    proxy = FaultyProxy(s3_bucket.endpoint)
    options = {
        "endpoint_url": proxy.url,
        "key": f"{PLANTED}-key",
        "secret": f"{PLANTED}-secret",
        "token": f"{PLANTED}-t",
    }
    given = [argument for name, value in options.items() for argument in ("--storage-option", f"{name}={value}")]
    environment = {"AWS_SECRET_ACCESS_KEY": f"{PLANTED}-environment"}
    try:
        for fault, code in (("403", 1), (None, 0)):
            proxy.fault = lambda method, path, number, fault=fault: fault if ".tar" in path and number > 5 else None
            output = tmp_path / f"out-{code}"
            arguments = ["label", f"{s3_bucket.uri}/in", str(output), *COMMON, *given, *place.arguments]
            label = Attempt(arguments=arguments, log=tmp_path / f"{code}.log", environment=environment)
            assert label.run() == code, label.log.read_text()
            assert places_of_secrets(output, label.log, ray_folder) == []
    finally:
        proxy.close()
