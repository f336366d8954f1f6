"""``maskmill submit`` against a real head in processes of its own: logs, exit codes, cancel, token, TLS, metrics."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from maskmill.model.presets import BUNDLED
from tests.end_to_end.conftest import IMAGES, MASKMILL, command, copies_of, lay_traps, read_rows, summary
from tests.end_to_end.ray_head import TOKEN, Head, ray_head, scrape
from tests.end_to_end.tls_proxy import tls_proxy

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="mm"))  # sockets below it: pytest's own folders are too long for that
    with ray_head(folder) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def folder(tmp_path: Path, shapes: Path) -> Path:
    """A working directory: the classes, a job and something that must not be uploaded."""
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copy(shapes / "wds" / "classes.json", folder)
    (folder / "weights.key").write_text("secret")
    lay_traps(folder)
    return folder


def write_job(folder: Path, source: Path | str, **settings: Any) -> Path:
    job = folder / "job.yaml"
    plain = {"input": str(source), "output": str(folder.parent / "out"), "classes": "classes.json"}
    job.write_text(yaml.safe_dump({**plain, "propose_actors": 1, **settings}))
    return job


def start(head: Head, folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*MASKMILL, "submit", *arguments, "--address", head.jobs],
        cwd=folder,
        env={**os.environ, **head.environment, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def submit(head: Head, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    process = start(head, folder, *arguments, **environment)
    output, errors = process.communicate(timeout=3000)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


class Scraper(threading.Thread):
    """Reads the metrics page again and again, as Prometheus does, and remembers the last value of every series."""

    def __init__(self, head: Head) -> None:
        super().__init__(daemon=True)
        self.head = head
        self.series: dict[str, float] = {}
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(1.0):
            lines = [line for line in scrape(self.head).splitlines() if line and not line.startswith("#")]
            # Replaced as a whole: the test's thread may be going through it.
            self.series = self.series | {name: float(value) for name, _, value in (e.rpartition(" ") for e in lines)}

    def names(self) -> set[str]:
        return {series.partition("{")[0] for series in self.series}

    def total(self, name: str, **labels: str) -> float:
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        found = (v for s, v in self.series.items() if s.startswith(name + "{") and all(each in s for each in wanted))
        return sum(found)


def dashboard_queries() -> list[str]:
    panels = json.loads((ROOT / "jobs" / "grafana" / "maskmill.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_a_whole_run_with_its_log_its_metrics_and_exit_code_0(head: Head, folder: Path, shapes: Path) -> None:
    """Two bad images among the good ones, so that errors have a metric too; pools apart, so that all stages have."""
    source = folder.parent / "in"
    shutil.copytree(shapes / "wds", source, ignore=shutil.ignore_patterns("*.json", "*.txt"))
    with tarfile.open(source / "bad.tar", "w") as archive:
        for name in ("one.jpg", "two.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"text"))
    sizes = {"propose_cpus": 0.25, "classify_actors": 1, "classify_cpus": 0.25, "fuse": "off"}
    write_job(folder, source, log_format="json", max_failed=0.1, **sizes)
    scraper = Scraper(head)
    scraper.start()
    done = submit(head, folder, "job.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    labels = read_rows(folder.parent / "out")
    name = labels[0]["class_names"][0]
    stages = {"decode": IMAGES + 2, "propose": IMAGES, "classify": IMAGES, "encode": IMAGES + 2}
    wanted = [("ray_maskmill_stage_images_total", {"stage": stage}, count) for stage, count in stages.items()]
    wanted += [
        ("ray_maskmill_images_total", {"outcome": "failed"}, 2),
        ("ray_maskmill_errors_total", {"stage": "decode", "error_class": "not_an_image"}, 2),
        ("ray_maskmill_segments_total", {}, sum(len(row["class_ids"]) for row in labels)),
        ("ray_maskmill_class_segments_total", {"class": name}, sum(row["class_names"].count(name) for row in labels)),
    ]
    used = {name for query in dashboard_queries() for name in re.findall(r"\bray_[a-z_]+", query)}

    def missing() -> list[tuple[object, ...]]:
        counted = [(*each, scraper.total(each[0], **each[1])) for each in wanted]
        return [each for each in counted if each[2] != each[3]] + [(name,) for name in used - scraper.names()]

    deadline = time.monotonic() + 120  # workers hand their figures in every few seconds
    while missing() and time.monotonic() < deadline:
        time.sleep(0.5)
    scraper.stopped.set()
    assert missing() == []
    for stage in stages:
        assert scraper.total("ray_maskmill_stage_seconds_total", stage=stage) > 0, stage
    failed = [json.loads(line) for line in done.stdout.splitlines() if '"image"' in line]
    assert {entry["image"] for entry in failed} == {"one", "two"}
    assert "shards" in done.stdout
    assert len(read_rows(folder.parent / "out")) == IMAGES
    commits = [json.loads(line) for line in done.stdout.splitlines() if '"committed' in line]
    shards = sorted(path.stem for path in (folder.parent / "out" / "stats").iterdir())
    assert sorted(entry["shard"] for entry in commits) == shards
    assert {entry["run"] for entry in commits} == {summary(folder.parent / "out")["run_id"]}


def test_a_run_that_joins_the_cluster_imports_what_is_installed(head: Head, folder: Path, shapes: Path) -> None:
    source, classes = shapes / "folder", shapes / "folder" / "classes.json"
    options = {"cwd": folder, "env": {**os.environ, **head.environment, "PYTHONPATH": str(ROOT)}}
    output = folder.parent / "out"
    done = command("label", source, output, "--classes", classes, "--address", head.address, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read_rows(output)) == IMAGES


def test_paths_of_the_job_are_those_of_its_folder(head: Head, folder: Path, shapes: Path) -> None:
    """Here and in the workers: the weights are read by them, by the path in the job file."""
    shutil.copytree(BUNDLED, folder / "weights")
    shutil.copytree(shapes / "folder", folder / "images")
    write_job(folder, "images", weights="weights", clip="weights")
    done = submit(head, folder, "job.yaml", "--exclude", "/images/*1.jpg")
    assert done.returncode == 0, done.stdout + done.stderr
    assert 0 < len(read_rows(folder.parent / "out")) < IMAGES


def test_bad_images_are_exit_code_3_and_wrong_settings_2(head: Head, folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "bad"
    source.mkdir()
    (source / "no-image.jpg").write_bytes(b"text")
    write_job(folder, source)
    done = submit(head, folder, "job.yaml")
    assert done.returncode == 3, done.stdout + done.stderr
    # Found by the cluster: only there can be seen what the bucket holds.
    write_job(folder, tmp_path / "nothing-here")
    done = submit(head, folder, "job.yaml")
    assert (done.returncode, "no such file or folder" in done.stdout) == (2, True), done.stdout + done.stderr


def test_what_can_be_refused_here_is_refused_here(head: Head, folder: Path, shapes: Path) -> None:
    write_job(folder, shapes / "wds", batchsize=3)
    done = submit(head, folder, "job.yaml")
    assert done.returncode == 2
    assert "batchsize" in done.stderr
    assert "submitted" not in done.stderr


def test_a_failed_run_is_exit_code_1(head: Head, folder: Path, shapes: Path) -> None:
    job = write_job(folder, shapes / "wds")
    lease = {"user": "u", "host": "elsewhere", "pid": 1, "process": "", "acquired_at": time.time()}
    output = folder.parent / "out"
    output.mkdir()
    (output / "_lease.json").write_text(json.dumps({"attempt": "a", **lease, "renewed_at": time.time()}))
    done = submit(head, folder, job.name)
    assert (done.returncode, "in use by u@elsewhere" in done.stdout) == (1, True), done.stdout + done.stderr


def test_logs_stream_and_ctrl_c_stops_the_job(head: Head, folder: Path, shapes: Path) -> None:
    write_job(folder, copies_of(shapes, folder.parent / "many"), log_format="json")
    process = start(head, folder, "job.yaml")
    seen_at, line = 0.0, ""
    while "committed" not in line:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        seen_at = time.time()
    assert json.loads(line)["message"].startswith("committed")
    assert seen_at - next((folder.parent / "out" / "stats").iterdir()).stat().st_mtime < 90
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    # The run itself took its leave: it gave the lease back and wrote down how it ended.
    assert not (folder.parent / "out" / "_lease.json").exists()
    (attempt,) = (folder.parent / "out" / "runs").iterdir()
    assert json.loads(attempt.read_text())["outcome"] == "interrupted"


def test_no_wait_attach_and_cancel(head: Head, folder: Path, shapes: Path) -> None:
    write_job(folder, copies_of(shapes, folder.parent / "many"), log_format="json", propose_batch_size=1)
    started = submit(head, folder, "job.yaml", "--no-wait")
    assert started.returncode == 0, started.stderr
    job_id = started.stdout.strip()
    attached = start(head, folder, "--attach", job_id)
    while f"Running entrypoint for job {job_id}" not in (line := attached.stdout.readline()):
        assert line, attached.stderr.read()
    cancelled = submit(head, folder, "--cancel", job_id)
    assert cancelled.returncode == 0, cancelled.stderr
    attached.communicate(timeout=300)
    assert attached.returncode == 130
    assert submit(head, folder, "--attach", "no-such-job").returncode == 1


def test_without_the_token_nothing_is_told(head: Head, folder: Path, shapes: Path) -> None:
    write_job(folder, shapes / "wds")
    done = submit(head, folder, "job.yaml", RAY_AUTH_TOKEN="f" * 32)
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert TOKEN not in done.stderr
    assert "Traceback" not in done.stderr


def test_through_tls(head: Head, folder: Path, shapes: Path, tmp_path: Path) -> None:
    write_job(folder, shapes / "wds", dry_run=True)
    port = int(head.jobs.rsplit(":", 1)[1])
    with tls_proxy(port, tmp_path) as (address, certificate):
        secure = Head(head.address, address, head.metrics, head.environment)
        done = submit(secure, folder, "job.yaml", "--ca-file", str(certificate))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "shards" in done.stdout
        untrusted = submit(secure, folder, "job.yaml")
        assert untrusted.returncode == 1
        assert "certificate" in untrusted.stderr.lower()
