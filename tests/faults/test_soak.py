"""One long run of small images: the memory of driver and workers stays what it was, the object store in its limit."""

from __future__ import annotations

import io
import tarfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean

import psutil
import pytest

from tests.faults.attempts import Attempt, markers, workers_below
from tests.faults.images import small_jpeg
from tests.faults.kill_matrix import rows
from tests.faults.tiny_model import CLASSES

IMAGES = 50_000
SHARD = 500
SHARDS = IMAGES // SHARD
OBJECT_STORE_BYTES = 200 * 2**20
GROWTH = 1.05
"""From the second fifth to the last; 1.013 measured of task workers, 1.008 of the others. In the first fifth processes
start and import what they need."""


def write_many(folder: Path) -> Path:
    folder.mkdir()
    pictures = [small_jpeg(number) for number in range(500)]
    for first in range(0, IMAGES, SHARD):
        with tarfile.open(folder / f"{first // SHARD:04d}.tar", "w") as archive:
            for number in range(first, first + SHARD):
                data = pictures[number % len(pictures)]
                info = tarfile.TarInfo(f"{number:06d}.jpg")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return folder


def own_bytes(process: psutil.Process, field: str = "RssAnon") -> int | None:
    """A process's memory of one kind, None if it has ended; RssAnon is without the object store that it has mapped."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A process that has ended and was not waited for yet has a status without memory.
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def role(title: str) -> str:
    """Actors keep their process; the processes of tasks change their title with each task."""
    return "actor" if "MapWorker" in title else "breadcrumbs" if "Trail" in title else "task worker"


ROLES = {"driver", "actor", "breadcrumbs", "task worker"}


def bytes_by_role(driver: psutil.Process) -> dict[str, int]:
    """What the driver and the workers below it hold, on average of a role; without those that end just now."""
    sizes: dict[str, list[int | None]] = defaultdict(list)
    sizes["driver"].append(own_bytes(driver))
    for worker, title in workers_below(driver.pid):
        sizes[role(title)].append(own_bytes(worker))
    found = {name: [size for size in each if size is not None] for name, each in sizes.items()}
    return {name: round(mean(each)) for name, each in found.items() if each}


def store_bytes(driver: psutil.Process) -> int:
    """What the raylet below the driver holds of the object store; 0 if it is not there yet, or no more."""
    try:
        below = driver.children(recursive=True)
        raylets = [each for each in below if each.name() == "raylet"]
    except psutil.NoSuchProcess:
        return 0
    return sum(own_bytes(each, "RssShmem") or 0 for each in raylets)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_is_flat(tmp_path: Path) -> None:
    source, output = write_many(tmp_path / "in"), tmp_path / "out"
    arguments = ["label", str(source), str(output), "--classes", ",".join(CLASSES), "--cpus", "2", "--gpus", "0"]
    attempt = Attempt(
        arguments=[*arguments, "--object-store-bytes", str(OBJECT_STORE_BYTES)], log=tmp_path / "soak.log"
    )
    process = attempt.start()
    driver = psutil.Process(process.pid)
    fifths: list[dict[str, list[int]]] = [defaultdict(list) for _ in range(5)]
    store: list[int] = []
    started_at = time.monotonic()
    while process.exitcode is None:
        done = markers(output)
        if 0 < done < SHARDS:  # later the processes end one after another
            for name, size in bytes_by_role(driver).items():
                fifths[done * 5 // SHARDS][name].append(size)
            store.append(store_bytes(driver))
        time.sleep(0.5)
    seconds = time.monotonic() - started_at
    assert process.exitcode == 0, attempt.log.read_text()
    assert len({row["image_id"] for row in rows(output, "labels")}) == IMAGES
    print(f"\n{IMAGES} images in {seconds:.0f} s; object store at most {max(store) / 2**20:.0f} MiB")
    for name in sorted(ROLES):
        print(f"{name}: MiB by fifths", *(f"{mean(of[name]) / 2**20:.1f}" if of[name] else "-" for of in fifths))
    first, last = fifths[1], fifths[4]
    assert ROLES == {name for name in first if first[name]} == {name for name in last if last[name]}
    growth = {name: mean(last[name]) / mean(first[name]) for name in ROLES}
    assert 0 < max(store) <= OBJECT_STORE_BYTES
    assert max(growth.values()) < GROWTH, growth
