"""`maskmill status` on markers as a run leaves them: the figures, the words and the JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from maskmill.jobs.main import app
from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.output.markers import marker_name
from maskmill.pipeline.output.statistics import ClassSums, RunSums


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Three of five shards done, one every ten seconds, 100 images each, the last of them with five failures."""
    run = Output(str(tmp_path / "out"))
    run.write_json("run.json", {"run_id": "20260101T000000Z-abcd", "shards": 5})
    now = time.time()
    for position, failed in enumerate((0, 0, 5)):
        sums = RunSums(labelled=100 - failed, failed=failed, classes={3: ClassSums(images=100 - failed)})
        if failed:
            sums.errors = Counter({"decode/truncated": 4, "read/empty": 1})
        marker = {"committed_at": now - 3600 + 10 * position, "sums": sums.to_dict()}
        run.write_json(marker_name(f"{position:05d}-feed"), marker)
    return tmp_path / "out"


def test_lines_for_people(output: Path) -> None:
    result = CliRunner().invoke(app, ["status", str(output)])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "run      20260101T000000Z-abcd",
        "shards   3 of 5 done (60%), 2 pending",
        "images   300: 295 labelled, 5 failed",
        "commit   59 min 40 s ago",
        "rate     10.0 images/s over the latest commits",
        "to go    20 s at that rate",
        "error    4 x decode/truncated",
        "error    1 x read/empty",
    ]


def test_json_holds_the_same(output: Path) -> None:
    found = json.loads(CliRunner().invoke(app, ["status", str(output), "--json"]).stdout)
    assert found["shards_pending"] == 2
    assert (found["images"], found["labelled"], found["failed"]) == (300, 295, 5)
    assert found["errors"] == {"decode/truncated": 4, "read/empty": 1}
    assert found["eta_s"] == pytest.approx(20)


def test_a_finished_run_has_nothing_to_go(output: Path) -> None:
    run = Output(str(output))
    run.write_json("run.json", {"run_id": "x", "shards": 3})
    lines = CliRunner().invoke(app, ["status", str(output)]).stdout
    assert "3 of 3 done (100%), 0 pending" in lines
    assert "to go" not in lines


def test_a_place_without_a_run_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path} holds no run (no run.json there)\n"


def test_it_starts_neither_ray_nor_torch(output: Path) -> None:
    code = (
        "import sys; from maskmill.jobs.main import app; app(['status', sys.argv[1]], standalone_mode=False); "
        "print('LOADED', *({'ray', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(output)], capture_output=True, text=True, check=False)
    assert "3 of 5 done" in result.stdout, result.stderr
    assert result.stdout.splitlines()[-1] == "LOADED"
