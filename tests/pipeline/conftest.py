"""Fixtures of the pipeline's tests; the S3 server they stand before is in tests/conftest.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.pipeline.faulty_proxy import FaultyProxy


@pytest.fixture
def faulty_s3(s3_bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before the S3 server, which the environment now points to; it breaks nothing until told."""
    proxy = FaultyProxy(s3_bucket.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy
    proxy.close()
