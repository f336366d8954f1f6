"""What all tests share: the environment of processes, one Ray, and a real S3 server on loopback."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.environment import own_ray_folder, set_threads
from tests.skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401 (hooks)

if TYPE_CHECKING:
    from tests.shared_ray import SharedRay

set_threads()

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret", "AWS_REGION": "us-east-1"}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Every test begins with the threads of ``tests.environment``, whatever the one before it has set."""
    set_threads()
    yield
    set_threads()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        from tests.spreading import put_ray_first

        put_ray_first(config, items)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    from tests.spreading import tell_folder

    tell_folder(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.spreading import Spreading

    return Spreading(config, log)


@pytest.fixture(scope="session", autouse=True)
def ray_folder() -> Iterator[Path]:
    """The folder that has the sessions of all Rays that tests start."""
    folder = Path(own_ray_folder())
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_ray(ray_folder: Path) -> Iterator[SharedRay]:
    """One Ray with two CPUs for all tests that can share one; its ``address`` is for processes started in a test."""
    from tests.shared_ray import SharedRay  # importing Ray takes a second, which most tests can do without

    shared = SharedRay()
    yield shared
    shared.end()


@pytest.fixture(scope="module")
def local_ray(shared_ray: SharedRay) -> None:
    """This process is on the shared Ray during the tests of a file."""
    shared_ray.join()


@pytest.fixture
def idle_ray(shared_ray: SharedRay, local_ray: None) -> None:
    """This process is on the shared Ray, and all of its CPUs are free, for tests that need every one of them."""
    shared_ray.wait_until_idle()


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process use the model of tests/faults/tiny_model.py, for which any four classes will do."""
    use_tiny_model(monkeypatch)


def use_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the tiny model in place of the fused stage for as long as ``monkeypatch`` lasts."""
    import maskmill.pipeline.cluster.flow
    from tests.faults.tiny_model import NoModel, TinyStage

    monkeypatch.setattr(maskmill.pipeline.cluster.flow, "SegmentStage", TinyStage)
    monkeypatch.setattr(maskmill.pipeline.cluster.flow, "StageModel", NoModel)


@pytest.fixture
def no_ray() -> Iterator[None]:
    """This process is on no Ray when the test begins; afterwards it is where it was."""
    import ray

    address = ray.get_runtime_context().gcs_address if ray.is_initialized() else None
    ray.shutdown()
    yield
    ray.shutdown()
    if address is not None:
        ray.init(address=address, log_to_driver=False)


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
    # Else its lines go to what was stderr when the first one came, which may be a test's capture that is closed by now.
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
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
