"""Watches a running job from outside its stages: CPU seconds and memory by stage, from Linux's /proc, and queues."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Self

import numpy as np

from maskmill.pipeline.cluster.periodic import PeriodicSampler
from maskmill.pipeline.cluster.queues import stage_queues

SAMPLE_S = 2.0
MEMORY_SHARE = 0.005
"""The most of a core that reading memory may take: the kernel walks all pages of a process to compute its PSS."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STAGES = (
    ("model", re.compile(r"ray::.*(SegmentStage|ProposeStage|ClassifyStage)")),
    ("read, decode", re.compile(r"ray::.*MapBatches\((read|decode)\)")),
    ("encode", re.compile(r"ray::.*MapBatches\(encode\)")),
    ("commit", re.compile(r"ray::commit")),
    ("trail", re.compile(r"ray::Trail")),
)
IDLE = "idle workers"
DRIVER = "driver"
RAY = "Ray's processes"


class ProcessMonitor(PeriodicSampler):
    """Watches this process and all its descendants while the ``with`` block runs.

    memory_bytes: (time, bytes) of each sample; bytes are the proportional set size (PSS), which counts shared pages
    once. Entering the block raises OSError where there is no Linux /proc.
    """

    def __init__(self) -> None:
        super().__init__("processes", SAMPLE_S)
        self.memory_bytes: list[tuple[float, int]] = []
        self._spent: dict[str, float] = {}
        self._spent_by: list[tuple[float, dict[str, float]]] = []
        self._ticks: dict[int, int] = {}
        self._memory_next_at = 0.0

    def __enter__(self) -> Self:
        if not Path("/proc/self/smaps_rollup").exists():
            raise OSError("the processes of a job can only be measured on Linux")
        return super().__enter__()

    def sample(self) -> None:
        """Read the CPU time of all processes, and their memory less often."""
        pids = _descendants(os.getpid())
        for pid in pids:
            try:
                ticks = sum(map(int, _stat(pid)[11:13]))
                title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # the process ended meanwhile
            stage = _stage(pid, title)
            spent = (ticks - self._ticks.get(pid, 0)) / _TICKS_PER_S
            self._spent[stage] = self._spent.get(stage, 0.0) + spent
            self._ticks[pid] = ticks
        self._spent_by.append((time.monotonic(), dict(self._spent)))
        if time.monotonic() >= self._memory_next_at:
            started = time.monotonic()
            memory = sum(map(_proportional_bytes, pids))
            ended = time.monotonic()
            self.memory_bytes.append((ended, memory))
            self._memory_next_at = ended + (ended - started) / MEMORY_SHARE

    def cpu_seconds(self, edges: Sequence[float]) -> dict[str, list[float]]:
        """Return CPU seconds by stage between neighbouring ``edges`` (ascending times), interpolated from samples."""
        moments = [at for at, _ in self._spent_by]
        spent = {stage: [by.get(stage, 0.0) for _, by in self._spent_by] for stage in sorted(self._spent)}
        return {stage: np.diff(np.interp(edges, moments, own)).tolist() for stage, own in spent.items()}


def _proportional_bytes(pid: int) -> int:
    """Return the proportional set size of a process, 0 if the process ended meanwhile."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _stage(pid: int, title: str) -> str:
    if pid == os.getpid():
        return DRIVER
    for name, pattern in _STAGES:
        if pattern.search(title):
            return name
    return IDLE if "ray::IDLE" in title else RAY


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on, since the name before the state may hold any character."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _descendants(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(_stat(int(entry))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found, waiting = {root}, [root]
    while waiting:
        parent = waiting.pop()
        children = [pid for pid, own in parents.items() if own == parent and pid not in found]
        found.update(children)
        waiting.extend(children)
    return found


class QueueMonitor(PeriodicSampler):
    """Watches what waits in front of every stage of this process's graph while the ``with`` block runs.

    Counting begins with :meth:`start_counting`, since the pools only fill at first.
    """

    def __init__(self) -> None:
        super().__init__("queues", SAMPLE_S)
        self._counting = False
        self._blocks: dict[str, list[int]] = {}
        self._bytes: dict[str, list[int]] = {}

    def start_counting(self) -> None:
        """Count the samples from now on."""
        self._counting = True

    def sample(self) -> None:
        """Read the length of all queues."""
        for queue in stage_queues() if self._counting else ():
            self._blocks.setdefault(queue.stage, []).append(queue.queued_blocks)
            self._bytes.setdefault(queue.stage, []).append(queue.queued_bytes)

    def figures(self) -> dict[str, dict[str, float]]:
        """Return by stage: blocks and bytes that waited (mean and most over the samples), and how often any waited.

        The last stages are fed in bursts. A queue before the model that is empty most of the time starves the model.
        """
        return {
            stage: {
                "mean_blocks": mean(blocks),
                "most_blocks": max(blocks),
                "mean_bytes": mean(self._bytes[stage]),
                "most_bytes": max(self._bytes[stage]),
                "share_not_empty": mean(float(count > 0) for count in blocks),
            }
            for stage, blocks in self._blocks.items()
        }
