"""Runs of ``maskmill label`` in processes of their own, cheap to start, with a model of a test's choice."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PRELOADED = [
    "maskmill.jobs.label",
    "maskmill.jobs.retry",
    "maskmill.pipeline.cluster.driver",
    "maskmill.pipeline.cluster.flow",
    "tests.faults.tiny_model",
]
BUNDLED = "bundled"
"""As a model: the project's own small one, in place of a stage of the tests."""
TINY = "tests.faults.tiny_model:TinyStage"

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)  # a process that has all imported is forked in milliseconds


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One call of the command. arguments: as on the command line. model, reader: module:class of the stages."""

    arguments: Sequence[str]
    log: Path
    model: str = TINY
    reader: str = "maskmill.pipeline.stages.read:ReadStage"
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> multiprocessing.process.BaseProcess:
        process = _context.Process(target=_run_command, args=(self,))
        process.start()
        return process

    def run(self, timeout_s: float = 600) -> int:
        """Run to the end and return the exit code; beyond the time-out the test fails."""
        process = self.start()
        process.join(timeout_s)
        if process.exitcode is None:
            kill_tree(process.pid)
            raise AssertionError(f"not finished after {timeout_s:g} s:\n{self.log.read_text()[-3000:]}")
        return process.exitcode


def _run_command(attempt: Attempt) -> None:
    os.setsid()
    os.environ.update(attempt.environment)
    if attempt.model != BUNDLED:
        import importlib

        import maskmill.pipeline.cluster.flow
        from tests.faults.tiny_model import NoModel

        maskmill.pipeline.cluster.flow.StageModel = NoModel  # type: ignore[misc,assignment]
        for stage, place in (("SegmentStage", attempt.model), ("ReadStage", attempt.reader)):
            module, _, name = place.partition(":")
            setattr(maskmill.pipeline.cluster.flow, stage, getattr(importlib.import_module(module), name))
    from maskmill.jobs.main import app

    # Tests take the log for the sign that the command has begun: from here on signals are the command's own matter.
    log = os.open(attempt.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    try:
        app(list(attempt.arguments), prog_name="maskmill")
    except KeyboardInterrupt:
        # Before it handles signals itself a program ends by them; one of multiprocessing would not.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def kill_tree(pid: int | None) -> int:
    """SIGKILL a process and all below it, stopped first so that none sees another die; returns how many."""
    assert pid is not None
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        psutil.wait_procs(tree, timeout=20)
        return len(tree)
    return 0


def kill_leftovers(pid: int) -> None:
    """End the Ray of a killed driver that led a process group; it would end by itself a little later."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def workers_below(pid: int) -> Iterator[tuple[psutil.Process, str]]:
    """The workers below a process, without Ray's own, and what each does now: "ray::" and a task's or actor's name."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                title = " ".join(process.cmdline()).strip()
                if title.startswith("ray::") and not title.startswith("ray::_") and "Agent" not in title:
                    yield process, title


def markers(output: Path) -> int:
    """Shards committed so far."""
    try:
        return sum(entry.name.endswith(".json") for entry in os.scandir(output / "stats"))
    except FileNotFoundError:
        return 0


def wait_for_markers(output: Path, count: int, process: multiprocessing.process.BaseProcess, timeout_s: float) -> bool:
    """Wait until so many shards are committed; False if the process ended before."""
    deadline = time.monotonic() + timeout_s
    while markers(output) < count:
        if process.exitcode is not None:
            return False
        assert time.monotonic() < deadline, f"{markers(output)} of {count} markers after {timeout_s:g} s"
        time.sleep(0.005)
    return process.exitcode is None
