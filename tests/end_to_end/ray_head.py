"""A Ray head of its own, started as an operator starts one: in other processes, with jobs, metrics and a token."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

TOKEN = "0123456789abcdef0123456789abcdef"  # for heads on this machine's loopback only
START_S = 240


@dataclass(frozen=True)
class Head:
    """Addresses of a running head. environment: what its clients need."""

    address: str
    jobs: str
    metrics: str
    environment: dict[str, str]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ray_head(folder: Path, cpus: int = 2) -> Iterator[Head]:
    """Run ``ray start --head --block`` with its session below ``folder`` (a short path: it holds sockets)."""
    ports = {name: free_port() for name in ("port", "dashboard-port", "metrics-export-port")}
    options = {
        **ports,
        "num-cpus": cpus,
        "dashboard-host": "127.0.0.1",
        "node-ip-address": "127.0.0.1",
        "ray-client-server-port": free_port(),
        "dashboard-agent-listen-port": free_port(),
        "object-store-memory": 300 * 2**20,
        "temp-dir": folder,
    }
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    no_drain = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    python = str(Path(sys.executable).parent)
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            [Path(python, "ray"), "start", "--head", "--block", *(f"--{k}={v}" for k, v in options.items())],
            env={
                **os.environ,
                **environment,
                **no_drain,
                "PATH": f"{python}:{os.environ['PATH']}",
                "RAY_DEDUP_LOGS": "0",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    head = Head(
        f"127.0.0.1:{ports['port']}",
        f"http://127.0.0.1:{ports['dashboard-port']}",
        f"http://127.0.0.1:{ports['metrics-export-port']}/metrics",
        environment,
    )
    try:
        _wait_for_services(head, process, folder / "head.log")
        yield head
    finally:
        end(process, folder)


def _wait_for_services(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    request = urllib.request.Request(f"{head.jobs}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + START_S
    while True:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(request, timeout=30).close()
            scrape(head)
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)


def end(process: subprocess.Popen[bytes], folder: Path) -> None:
    """End the head and whatever it started."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    end_session(folder)


def end_session(folder: Path) -> None:
    """End what is left of a Ray session whose files lie below ``folder``."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _belongs(entry, folder):
            try:
                os.kill(int(entry.name), signal.SIGKILL)
            except ProcessLookupError:
                continue


def _belongs(entry: Path, folder: Path) -> bool:
    try:
        words = (entry / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return f"{folder}/session".encode() in words


def scrape(head: Head) -> str:
    """The metrics page of the head."""
    with urllib.request.urlopen(head.metrics, timeout=60) as page:
        return page.read().decode()
