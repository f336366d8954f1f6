"""Whole runs from and to S3 through a server that fails: the result is exact, and comes in bounded time."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bucket
from tests.faults.conftest import Label
from tests.faults.images import write_tars
from tests.faults.kill_matrix import EXACT, rows
from tests.pipeline.faulty_proxy import Fault, FaultyProxy

IMAGES = 300
SHARD = 30
DAMAGED_EVERY = 50
STALL_S = 10.0
LONGEST_S = 240.0
"""Measured on a busy machine: 19 s with two faults, 152 s with 38 stalls of 10 s, which one by one would be 380."""
KINDS = ("500", "503", "reset", "truncate", "stall", "lost")


@pytest.fixture
def proxy(s3_bucket: Bucket) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(s3_bucket.endpoint, STALL_S)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tars(tmp_path_factory.mktemp("images") / "in", IMAGES, SHARD, DAMAGED_EVERY)


@pytest.fixture
def undisturbed(label: Label, images: Path, tmp_path: Path) -> Path:
    label(images, tmp_path / "undisturbed")
    return tmp_path / "undisturbed"


def at_random(kinds: tuple[str, ...], share: float, seed: int) -> Fault:
    """Break that share of all requests, each in one of the ways given."""
    rng = random.Random(seed)
    return lambda method, path, number: rng.choice(kinds) if rng.random() < share else None


def marker_uploads(kind: str) -> Fault:
    """Break the first two uploads of every marker: what comes between the merge of parts and the marker."""
    seen: dict[str, int] = {}

    def fault(method: str, path: str, number: int) -> str | None:
        if method != "PUT" or "/stats/" not in path:
            return None
        seen[path] = seen.get(path, 0) + 1
        return kind if seen[path] <= 2 else None

    return fault


def labelled_through(
    label: Label, bucket: Bucket, proxy: FaultyProxy, images: Path, fault: Fault, folder: Path
) -> tuple[Path, float]:
    """Label from and to the bucket while ``fault`` strikes; returns a copy of the output and the seconds it took."""
    bucket.upload(images, "in")
    options = {**bucket.storage_options, "endpoint_url": proxy.url}
    proxy.fault = fault
    started_at = time.monotonic()
    label(f"{bucket.uri}/in", f"{bucket.uri}/out", storage_option=options)
    seconds = time.monotonic() - started_at
    bucket.download("out", folder)
    return folder, seconds


def assert_same(output: Path, undisturbed: Path) -> None:
    labels, wanted = rows(output, "labels"), rows(undisturbed, "labels")
    by_place = set(EXACT) - {"uri", "shard"} | {"scores"}  # those name the place of the input
    assert [_only(row, by_place) for row in sorted(labels, key=_id)] == [_only(row, by_place) for row in wanted]
    failed = [(row["image_id"], row["error_class"]) for row in rows(output, "errors")]
    assert sorted(failed) == [(row["image_id"], row["error_class"]) for row in rows(undisturbed, "errors")]
    assert len(labels) + len(failed) == IMAGES
    assert len(list(output.glob("stats/*.json"))) == IMAGES // SHARD
    assert not list(output.rglob("_*"))


def _only(row: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _id(row: dict[str, Any]) -> str:
    return row["image_id"]


def test_all_faults_at_once(
    label: Label, s3_bucket: Bucket, proxy: FaultyProxy, images: Path, undisturbed: Path, tmp_path: Path
) -> None:
    proxy.stall_s = 0.5
    fault = at_random(KINDS, 0.1, seed=1)
    output, seconds = labelled_through(label, s3_bucket, proxy, images, fault, tmp_path / "out")
    assert proxy.broken > 20
    assert seconds < LONGEST_S
    assert_same(output, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [pytest.param(0.01, marks=pytest.mark.marathon), 0.1, "markers"])
def test_each_fault(
    label: Label,
    s3_bucket: Bucket,
    proxy: FaultyProxy,
    images: Path,
    undisturbed: Path,
    tmp_path: Path,
    kind: str,
    share: float | str,
) -> None:
    fault = marker_uploads(kind) if isinstance(share, str) else at_random((kind,), share, seed=2)
    output, seconds = labelled_through(label, s3_bucket, proxy, images, fault, tmp_path / "out")
    print(f"\n| {kind} | {share} | {proxy.requests} | {proxy.broken} | {seconds:.0f} |")
    assert proxy.broken
    assert seconds < LONGEST_S
    assert_same(output, undisturbed)


def test_missing_permission_stops_the_run_and_blames_no_image(
    label: Label, s3_bucket: Bucket, proxy: FaultyProxy, images: Path, tmp_path: Path
) -> None:
    def denied(method: str, path: str, number: int) -> str | None:
        return "403" if method == "PUT" and "/_staging/" in path else None

    with pytest.raises(Exception, match=r"(?i)denied|forbidden|permission"):
        labelled_through(label, s3_bucket, proxy, images, denied, tmp_path / "out")
    assert not s3_bucket.keys("out/stats")
    assert not s3_bucket.keys("out/errors")
