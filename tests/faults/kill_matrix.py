"""Kills runs in every way there is, at random moments, and compares what they leave with an undisturbed run.

``python -m tests.faults.kill_matrix --into FOLDER`` runs the whole matrix and prints its table; one that was stopped
goes on where it was. Every fault has a seed, printed with it: ``--only driver:7`` repeats one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster

from tests.environment import own_ray_folder
from tests.faults.attempts import (
    TINY,
    Attempt,
    kill_tree,
    markers,
    wait_for_markers,
    workers_below,
)
from tests.faults.images import write_tars
from tests.faults.tiny_model import CLASSES

IMAGES = 2000
SHARD = 50
DAMAGED_EVERY = 97
MATRIX = {"driver": 30, "worker": 20, "commit": 10, "node": 5, "power": 5}
"""Kind of fault and how often it is tried."""
OWN_RAY = range(0, 10, 2)
"""Faults of these numbers strike a Ray of the run's own, the others a cluster that outlives the run."""
OBJECT_STORE_BYTES = 150 * 2**20
LONGEST_S = 240.0
EXACT = ("image_id", "uri", "shard", "row", "width", "height", "class_ids", "class_names", "areas", "boxes", "rles")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where the matrix runs: its folder, how many images in how many shards."""

    folder: Path
    images: int = IMAGES
    shard: int = SHARD
    model: str = TINY

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard)

    @property
    def source(self) -> Path:
        return self.folder / "images"

    def prepare(self) -> None:
        if not self.source.exists():
            unfinished = self.folder / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            write_tars(unfinished, self.images, self.shard, DAMAGED_EVERY).rename(self.source)

    def attempt(self, output: Path, *more: str) -> Attempt:
        arguments = ["label", str(self.source), str(output), "--classes", ",".join(CLASSES), "--max-failed", "0.05"]
        arguments += ["--object-store-bytes", str(OBJECT_STORE_BYTES), "--cpus", "2", "--gpus", "0", *more]
        return Attempt(arguments=arguments, log=output.with_suffix(".log"), model=self.model)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one fault led to. committed: shards that had their marker when it struck, of ``shards``.

    survived: the attempt went on and ended well by itself; otherwise the same command was run again, ``resumes`` times.
    score_difference: the largest, against the undisturbed run.
    """

    kind: str
    seed: int
    struck: str
    committed: int
    shards: int
    survived: bool
    resumes: int
    wrong: list[str]
    score_difference: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where attempts run: on a Ray of their own, or on a cluster that outlives them (its address, its raylet's pid)."""

    cluster: Cluster | None = None

    @property
    def arguments(self) -> list[str]:
        return [] if self.cluster is None else ["--address", self.cluster.address]

    def root(self, process: BaseProcess) -> int:
        """The process below which the workers are."""
        return _pid(process) if self.cluster is None else raylet_of(self.cluster.head_node)


def raylet_of(node: Any) -> int:
    return node.all_processes[ray._private.ray_constants.PROCESS_TYPE_RAYLET][0].process.pid


Fault = Callable[[random.Random, Setting, Path, Place], tuple[BaseProcess, str, int]]
"""Starts an attempt on an output and strikes; returns the attempt, what was struck, and the shards done by then."""


def driver(rng: random.Random, setting: Setting, output: Path, place: Place) -> tuple[BaseProcess, str, int]:
    """SIGKILL the driver alone: Ray may finish what is in flight."""
    process, committed = _started_and_reached(rng, setting, output, place)
    os.kill(_pid(process), signal.SIGKILL)
    return process, "driver", committed


def power(rng: random.Random, setting: Setting, output: Path, place: Place) -> tuple[BaseProcess, str, int]:
    """SIGKILL driver, Ray and all workers at one moment."""
    process, committed = _started_and_reached(rng, setting, output, place)
    return process, f"{kill_tree(_pid(process))} processes", committed


def worker(rng: random.Random, setting: Setting, output: Path, place: Place) -> tuple[BaseProcess, str, int]:
    """SIGKILL any worker that is at work."""
    process, _ = _started_and_reached(rng, setting, output, place)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        busy = [(found, title) for found, title in workers_below(place.root(process)) if "IDLE" not in title]
        if busy and process.exitcode is None:
            found, title = rng.choice(busy)
            committed = markers(output)
            with contextlib.suppress(psutil.NoSuchProcess):
                found.kill()
                return process, title, committed
    return process, "nobody", markers(output)


def commit(rng: random.Random, setting: Setting, output: Path, place: Place) -> tuple[BaseProcess, str, int]:
    """SIGKILL a worker in the middle of a commit."""
    process, _ = _started_and_reached(rng, setting, output, place)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.exitcode is None:
        for found, title in workers_below(place.root(process)):
            if title.startswith("ray::commit_shard"):
                time.sleep(rng.uniform(0, 0.03))
                committed = markers(output)
                with contextlib.suppress(psutil.NoSuchProcess):
                    still = " ".join(found.cmdline()).startswith("ray::commit_shard")
                    found.kill()
                    return process, "commit" if still else "just after a commit", committed
    return process, "nobody", markers(output)


@contextlib.contextmanager
def cluster_of(*cpus: int) -> Iterator[Cluster]:
    """A cluster of one node for each number of CPUs, the first of which is the head."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], "include_dashboard": False})
    try:
        for count in cpus[1:]:
            cluster.add_node(num_cpus=count)
        yield cluster
    finally:
        cluster.shutdown()


def node(rng: random.Random, setting: Setting, output: Path, place: Place) -> tuple[BaseProcess, str, int]:
    """Remove one node of the cluster with all its processes; another joins for the next fault."""
    cluster = place.cluster
    assert cluster is not None
    process, committed = _started_and_reached(rng, setting, output, place)
    lost = rng.choice(sorted(cluster.worker_nodes, key=lambda each: each.unique_id))
    busy = [title.removeprefix("ray::") for _, title in workers_below(raylet_of(lost)) if "IDLE" not in title]
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(wait=False, num_cpus=1)
    return process, f"node with {', '.join(sorted(busy)) or 'idle workers'}", committed


def _started_and_reached(rng: random.Random, setting: Setting, output: Path, place: Place) -> tuple[BaseProcess, int]:
    """Start an attempt and wait for a random moment of its run; one in ten lies before the first commit."""
    process = setting.attempt(output, *place.arguments).start()
    if rng.random() < 0.1:
        time.sleep(rng.uniform(0, 8))
    else:
        wait_for_markers(output, rng.randint(1, setting.shards - 1), process, LONGEST_S)
        time.sleep(rng.uniform(0, 0.1))
    return process, markers(output)


def _pid(process: BaseProcess) -> int:
    assert process.pid is not None
    return process.pid


def strike(kind: str, seed: int, place: Place, setting: Setting, expected: Expected) -> Outcome:
    """One fault on a run of its own, resumed until it is complete, and compared."""
    output = setting.folder / f"{kind}-{seed}"
    shutil.rmtree(output, ignore_errors=True)
    output.with_suffix(".log").unlink(missing_ok=True)
    started_at = time.monotonic()
    process, struck, committed = FAULTS[kind](random.Random(f"{kind}:{seed}"), setting, output, place)
    process.join(LONGEST_S)
    code = process.exitcode
    wrong = [f"attempt still alive after {LONGEST_S:g} s"] if code is None else []
    kill_tree(_pid(process))
    resumes = 0
    while code != 0 and resumes < 3:
        resumes += 1
        code = setting.attempt(output, *place.arguments).run(LONGEST_S)
    wrong += [f"exit code {code}"] if code else []
    differences, score_difference = expected.compare(output)
    wrong += differences
    if not wrong:
        shutil.rmtree(output)
    return Outcome(
        kind=kind,
        seed=seed,
        struck=struck,
        committed=committed,
        shards=setting.shards,
        survived=resumes == 0,
        resumes=resumes,
        wrong=wrong,
        score_difference=score_difference,
        seconds=round(time.monotonic() - started_at, 1),
    )


FAULTS: dict[str, Fault] = {"driver": driver, "worker": worker, "commit": commit, "node": node, "power": power}


class Expected:
    """The rows of an undisturbed run, and how another's differ from them."""

    def __init__(self, setting: Setting, place: Place) -> None:
        output = setting.folder / "undisturbed"
        if not (output / "summary.json").exists():
            shutil.rmtree(output, ignore_errors=True)
            code = setting.attempt(output, *place.arguments).run(LONGEST_S)
            assert code == 0, f"the undisturbed run ended with {code}; see {output.with_suffix('.log')}"
        self.images = setting.images
        self.shards = setting.shards
        self.labels = rows(output, "labels")
        self.errors = rows(output, "errors")
        assert len(self.labels) + len(self.errors) == setting.images
        assert len(self.errors) == setting.images // DAMAGED_EVERY

    def compare(self, output: Path) -> tuple[list[str], float]:
        """What is wrong with ``output`` (nothing, it is hoped), and the largest difference of a score."""
        labels, errors = rows(output, "labels"), rows(output, "errors")
        wrong = []
        ids = [row["image_id"] for row in labels + errors]
        if len(ids) != self.images or len(set(ids)) != self.images:
            wrong.append(f"{len(ids)} rows, {len(set(ids))} different, of {self.images} images")
        wrong += [
            f"{name} differs" for name in EXACT if [row[name] for row in labels] != [row[name] for row in self.labels]
        ]
        ignored = {"attempts"}
        if [_without(row, ignored) for row in errors] != [_without(row, ignored) for row in self.errors]:
            wrong.append("errors differ")
        if markers(output) != self.shards:
            wrong.append(f"{markers(output)} markers of {self.shards}")
        summary = json.loads((output / "summary.json").read_text()) if (output / "summary.json").exists() else {}
        if (summary.get("images"), summary.get("failed")) != (self.images, len(self.errors)):
            wrong.append(f"summary says {summary.get('images')} images, {summary.get('failed')} failed")
        left = [path.relative_to(output).as_posix() for path in output.rglob("*") if _is_orphan(path)]
        wrong += [f"orphans: {left[:5]}"] if left else []
        pairs = [
            (mine, own)
            for mine, theirs in zip(labels, self.labels, strict=False)
            for mine, own in zip(mine["scores"], theirs["scores"], strict=False)
        ]
        return wrong, max((abs(mine - own) for mine, own in pairs), default=0.0)


def rows(output: Path, kind: str) -> list[dict[str, Any]]:
    """All rows of a kind, in the order of shards and rows."""
    return [row for path in sorted(output.glob(f"{kind}/*.parquet")) for row in pq.read_table(path).to_pylist()]


def _without(row: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def _is_orphan(path: Path) -> bool:
    return path.name.startswith((".", "_"))


def table(outcomes: list[Outcome]) -> str:
    """The matrix as Markdown."""
    lines = [
        "| fault | runs | shards done when it struck | survived | resumed | rows lost or twice | other differences "
        "| largest score difference | seconds, median and most |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in MATRIX:
        own = [outcome for outcome in outcomes if outcome.kind == kind]
        if own:
            seconds = sorted(outcome.seconds for outcome in own)
            done = [outcome.committed for outcome in own]
            lost = sum(any("rows" in text for text in outcome.wrong) for outcome in own)
            cells = [
                kind,
                len(own),
                f"{min(done)} to {max(done)} of {own[0].shards}",
                sum(outcome.survived for outcome in own),
                sum(not outcome.survived for outcome in own),
                lost,
                sum(bool(outcome.wrong) for outcome in own) - lost,
                f"{max(outcome.score_difference for outcome in own):.2g}",
                f"{seconds[len(seconds) // 2]:.0f}, {seconds[-1]:.0f}",
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def nodes_of(kind: str, seed: int) -> tuple[int, ...]:
    """CPUs of the nodes that a fault needs; nothing for attempts that start a Ray of their own."""
    if kind == "node":
        return (1, 1, 1)
    own = kind == "power" or seed in OWN_RAY
    return () if own else (2,)


def run_matrix(setting: Setting, wanted: list[tuple[str, int]], until: float) -> list[Outcome]:
    """Run the faults (kind, seed) that are not in the folder's record yet, until that time; returns all outcomes."""
    setting.folder.mkdir(parents=True, exist_ok=True)
    setting.prepare()
    record = setting.folder / "outcomes.jsonl"
    outcomes = [Outcome(**json.loads(line)) for line in record.read_text().splitlines()] if record.exists() else []
    done = {(outcome.kind, outcome.seed) for outcome in outcomes}
    expected = Expected(setting, Place())
    with contextlib.ExitStack() as stack:
        clusters: dict[tuple[int, ...], Cluster] = {}
        for kind, seed in wanted:
            if (kind, seed) in done or time.monotonic() > until:
                continue
            cpus = nodes_of(kind, seed)
            if cpus and cpus not in clusters:
                clusters[cpus] = stack.enter_context(cluster_of(*cpus))
            outcome = strike(kind, seed, Place(cluster=clusters.get(cpus)), setting, expected)
            outcomes.append(outcome)
            with record.open("a") as stream:
                stream.write(json.dumps(asdict(outcome)) + "\n")
            print(json.dumps(asdict(outcome)), flush=True)
    return outcomes


def main() -> int:
    """The command; its exit code tells whether anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True, help="folder for images, outputs and the record")
    parser.add_argument("--only", nargs="*", help="kinds, or kind:seed; default: all")
    parser.add_argument("--minutes", type=float, default=600.0, help="start no fault after so many")
    parser.add_argument("--model", default=TINY, help="tiny by default; bundled: the real small model")
    given = parser.parse_args()
    own_ray_folder()
    wanted = [
        (kind, seed)
        for kind, count in MATRIX.items()
        for seed in range(count)
        if not given.only or kind in given.only or f"{kind}:{seed}" in given.only
    ]
    setting = Setting(folder=given.into.resolve(), model=given.model)
    outcomes = run_matrix(setting, wanted, time.monotonic() + 60 * given.minutes)
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Ray {ray.__version__}")
    print(table(outcomes))
    for outcome in outcomes:
        if outcome.wrong:
            print(f"WRONG {outcome.kind}:{outcome.seed}: {outcome.wrong}")
    return int(any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
