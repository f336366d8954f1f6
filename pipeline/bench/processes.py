"""CPU seconds and memory of a running job by stage, sampled from Linux's /proc: no stage knows that it is watched."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from types import TracebackType

SAMPLE_S = 1.0
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


class ProcessMonitor(threading.Thread):
    """Watches this process and all below it while its ``with`` block runs.

    cpu_seconds: by stage, of samples between ``start_counting`` and the end. memory_bytes: of each sample, resident and
    not shared twice (PSS), with the time it was taken at.
    """

    def __init__(self) -> None:
        super().__init__(name="processes", daemon=True)
        self.cpu_seconds: dict[str, float] = {}
        self.memory_bytes: list[tuple[float, int]] = []
        self._ended = threading.Event()
        self._ticks: dict[int, int] = {}
        self._counting = False

    def __enter__(self) -> ProcessMonitor:
        if not Path("/proc/self/smaps_rollup").exists():
            raise OSError("the processes of a job can only be measured on Linux")
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.join()

    def start_counting(self) -> None:
        """Leave out what was before: imports, weights, first calls."""
        self._counting = True

    def run(self) -> None:
        """Sample until the block ends."""
        while not self._ended.wait(SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        memory = 0
        for pid in _descendants(os.getpid()):
            try:
                ticks = sum(map(int, _stat(pid)[11:13]))
                title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            found = re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)
            memory += int(found[1]) * 1024 if found else 0
            spent = (ticks - self._ticks.get(pid, 0)) / _TICKS_PER_S
            self._ticks[pid] = ticks
            if self._counting:
                stage = _stage(pid, title)
                self.cpu_seconds[stage] = self.cpu_seconds.get(stage, 0.0) + spent
        self.memory_bytes.append((time.monotonic(), memory))


def _stage(pid: int, title: str) -> str:
    if pid == os.getpid():
        return DRIVER
    for name, pattern in _STAGES:
        if pattern.search(title):
            return name
    return IDLE if "ray::IDLE" in title else RAY


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; the name before it may hold anything."""
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
