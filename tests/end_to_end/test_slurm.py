"""The Slurm script on one node: Ray and the run are real, and Slurm's own commands do what they do on that node."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.end_to_end.conftest import IMAGES, copies_of, read_rows
from tests.end_to_end.ray_head import end_session, free_port

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "jobs" / "slurm" / "label.sbatch"
COMMANDS = {
    "scontrol": "echo localhost",
    "hostname": "echo 127.0.0.1",
    # Drops srun's own options and runs the rest here.
    "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "maskmill": f'exec {sys.executable} -m maskmill.jobs.main "$@"',
}
pytestmark = pytest.mark.slow


@pytest.fixture
def node(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a job on an allocation of one node."""
    commands, session = tmp_path / "bin", Path(tempfile.mkdtemp(prefix="mm"))
    commands.mkdir()
    for name, body in COMMANDS.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o755)
    slurm = {"JOB_NODELIST": "localhost", "JOB_NUM_NODES": "1", "CPUS_PER_TASK": "2", "GPUS_ON_NODE": "0"}
    yield {
        **os.environ,
        **{f"SLURM_{key}": value for key, value in slurm.items()},
        "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_PORT": str(free_port()),
        "RAY_TMPDIR": str(session),
    }
    end_session(session)
    shutil.rmtree(session, ignore_errors=True)


def write_job(folder: Path, shapes: Path, source: Path) -> Path:
    job = folder / "job.yaml"
    plain = {"input": str(source), "output": str(folder / "out"), "classes": str(shapes / "wds" / "classes.json")}
    job.write_text(yaml.safe_dump({**plain, "propose_actors": 1, "propose_batch_size": 1}))
    return job


def start(job: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", SCRIPT, job], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_run_to_its_end(node: dict[str, str], shapes: Path, tmp_path: Path) -> None:
    process = start(write_job(tmp_path, shapes, shapes / "wds"), node)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert len(read_rows(tmp_path / "out")) == IMAGES
    assert subprocess.run(["ray", "health-check", "--address", f"127.0.0.1:{node['RAY_PORT']}"], env=node).returncode


def test_the_time_limit_ends_the_run_in_order(node: dict[str, str], shapes: Path, tmp_path: Path) -> None:
    process = start(write_job(tmp_path, shapes, copies_of(shapes, tmp_path / "many")), node)
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("out/stats/*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=270)
    assert process.returncode == 143, output
    assert not (tmp_path / "out" / "_lease.json").exists()
