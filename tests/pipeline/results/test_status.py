"""The state of a run is read from its markers, whatever their size."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.output.markers import HEAD_BYTES, marker_name
from maskmill.pipeline.output.statistics import ClassSums, RunSums
from maskmill.pipeline.results.status import read_status


def write_marker(output: Output, name: str, sums: RunSums, committed_at: float) -> None:
    output.write_json(marker_name(name), {"committed_at": committed_at, "sums": sums.to_dict()})


@pytest.fixture
def output(tmp_path: Path) -> Output:
    output = Output(str(tmp_path))
    output.write_json("run.json", {"run_id": "r", "shards": 10})
    return output


def test_counts_add_up_over_markers_small_and_large(output: Output) -> None:
    large = {n: ClassSums(images=1, together=Counter(dict.fromkeys(range(100), 1))) for n in range(50)}
    now = time.time()
    write_marker(output, "a", RunSums(labelled=8, failed=2, errors=Counter({"decode/truncated": 2})), now - 4)
    write_marker(output, "b", RunSums(labelled=9, failed=1, errors=Counter({"read/empty": 1}), classes=large), now - 2)
    write_marker(output, "c", RunSums(labelled=10), now)
    assert len(output.read_bytes(marker_name("b"))) > HEAD_BYTES
    status = read_status(output.uri)
    assert (status.shards, status.shards_done, status.shards_pending) == (10, 3, 7)
    assert (status.images, status.labelled, status.failed) == (30, 27, 3)
    assert status.errors == {"decode/truncated": 2, "read/empty": 1}
    # 20 images in the 4 s between the first commit and the last; two shards took that long, seven are left.
    assert status.images_per_s == pytest.approx(5.0)
    assert status.eta_s == pytest.approx(14.0)


def test_a_run_without_markers_has_no_rate(output: Output) -> None:
    status = read_status(output.uri)
    assert (status.shards_done, status.images, status.images_per_s, status.eta_s) == (0, 0, None, None)


def test_no_run_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        read_status(str(tmp_path))
