"""A real S3 server on loopback, spoken to over HTTP, for every test that needs a bucket."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True)
class Bucket:
    """One empty bucket. ``storage_options`` say all; the environment does too, for processes started in the test."""

    name: str
    endpoint: str
    client: Any

    @property
    def uri(self) -> str:
        return f"s3://{self.name}"

    @property
    def storage_options(self) -> dict[str, str]:
        return {
            "endpoint_url": self.endpoint,
            "key": CREDENTIALS["AWS_ACCESS_KEY_ID"],
            "secret": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        }

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def upload(self, source: Path, prefix: str) -> None:
        """Put every file below ``source`` under ``prefix``."""
        for path in sorted(source.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(source).as_posix()}", path.read_bytes())

    def download(self, prefix: str, destination: Path) -> None:
        """Write every object under ``prefix`` below ``destination``."""
        for key in self.keys(prefix + "/"):
            path = destination / key.removeprefix(prefix + "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.get(key))


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of a moto server of this test session."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new bucket; credentials and endpoint are in the environment as well."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name=CREDENTIALS["AWS_REGION"],
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
    bucket = Bucket(name=f"test-{uuid.uuid4().hex[:12]}", endpoint=s3_endpoint, client=client)
    client.create_bucket(Bucket=bucket.name)
    return bucket
