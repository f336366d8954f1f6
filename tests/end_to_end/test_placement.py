"""Actors take the CPUs and the fractions of GPUs they were configured with (logical GPUs; no device is touched)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from tests.end_to_end.conftest import Label, by_image, read_rows
from tests.pipeline.masks.decoded import decode_segment_map
from tests.shared_ray import SharedRay


@pytest.fixture(scope="module", autouse=True)
def logical_gpus(shared_ray: SharedRay, local_ray: None) -> Iterator[None]:
    """A second node for the tests of this file, which claims to have two GPUs."""
    node = shared_ray.cluster.add_node(num_cpus=2, num_gpus=2, object_store_memory=150 * 2**20)
    yield
    shared_ray.cluster.remove_node(node)


class LeastFree(threading.Thread):
    """Watches the cluster and remembers the least that was free of each resource."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.free = ray.cluster_resources()
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.is_set():
            now = ray.available_resources()
            self.free = {name: min(value, now.get(name, 0.0)) for name, value in self.free.items()}
            time.sleep(0.02)


def least_free(label: Label, *arguments: Path, **settings: object) -> dict[str, float]:
    watcher = LeastFree()
    watcher.start()
    try:
        label(*arguments, **settings)
    finally:
        watcher.stopped.set()
        watcher.join()
    return watcher.free


@pytest.mark.slow
def test_split_pools_share_gpus_by_fractions_and_agree_with_the_fused_one(
    label: Label, shapes: Path, reference: dict[str, Any], tmp_path: Path
) -> None:
    """Between split pools mask logits travel as float16, which moves a few border pixels (0.004 % of them here)."""
    free = least_free(
        label,
        shapes / "wds",
        tmp_path / "out",
        fuse="off",
        propose_actors=1,
        propose_gpus=0.75,
        propose_cpus=0.5,
        classify_actors=2,
        classify_gpus=0.25,
        classify_cpus=0.25,
    )
    assert free["GPU"] == 2 - 0.75 - 2 * 0.25
    found = by_image(read_rows(tmp_path / "out"))
    assert sorted(found) == sorted(reference)
    same = [np.mean(label_map(row) == label_map(reference[name])) for name, row in found.items()]
    assert np.mean(same) >= 0.999


def label_map(row: dict[str, Any]) -> np.ndarray:
    return decode_segment_map(row["rles"], row["height"], row["width"], row["class_ids"], fill=65535)


@pytest.mark.usefixtures("tiny_model")
def test_without_gpus_asked_for_none_is_taken(label: Label, shapes: Path, tmp_path: Path) -> None:
    free = least_free(label, shapes / "wds", tmp_path / "out", propose_gpus=0)
    assert free["GPU"] == 2
