"""``maskmill label --preset photo`` from the command line, offline, with tiny networks over real photographs."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tests.end_to_end.conftest import by_image, command_here, read_rows, summary
from tests.faults.attempts import BUNDLED, Attempt, kill_leftovers, wait_for_markers
from tests.model.fake_hub import FakeHub
from tests.model.sources.tiny_models import save_grid_eomt
from tests.model.tiny_clips import CONVNEXT, OPENAI_INPUT, save_open_clip
from tests.pipeline.export.test_coco import follow_the_panoptic_rules
from tests.pipeline.masks.decoded import decode_segment_map

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
CLASSES = [
    {"name": "person", "thing": True},
    {"name": "traffic light", "thing": True},
    {"name": "grass, lawn", "thing": False},
    {"name": "cup"},
    {"name": "cat"},
]
COPIES, SHARD_SIZE = 12, 2
LONGEST_S = 240.0

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for name in PHOTOGRAPHS:
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.jpg", quality=92)
    return folder


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the command needs to know of the model: the preset with tiny networks in place of its own."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    save_grid_eomt(folder / "eomt", data.coffee())
    save_open_clip(folder / "clip", CONVNEXT, OPENAI_INPUT)
    settings = {
        "preset": "photo",
        "proposer": f"hf:{folder / 'eomt'}",
        "clip": folder / "clip",
        "classes": folder / "classes.json",
        "short-side": 192,
        "max-long-side": 400,
        "attend-side": 192,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def label(*words: str | Path) -> None:
    done = command_here("label", *words)
    assert done.returncode == 0, done.stderr


def label_map(row: dict[str, Any]) -> np.ndarray:
    return decode_segment_map(row["rles"], row["height"], row["width"], row["class_ids"], fill=65535)


@pytest.mark.slow
def test_fused_and_split_pools_name_photographs_alike(photographs: Path, flags: list[str], tmp_path: Path) -> None:
    """Between split pools masks travel as float16, which changed the class of up to 0.03 % of the pixels here."""
    found = {}
    for fuse in ("on", "off"):
        label(photographs, tmp_path / fuse, *flags, "--set", f"fuse={fuse}", "--set", "propose-gpus=0")
        assert not read_rows(tmp_path / fuse, "errors")
        found[fuse] = by_image(read_rows(tmp_path / fuse))
    for name in PHOTOGRAPHS:
        fused, split = label_map(found["on"][name]), label_map(found["off"][name])
        assert fused.shape == getattr(data, name)().shape[:2]
        assert {0, 1, 2} <= set(np.unique(fused))  # what the proposer itself knows
        assert np.mean(fused == split) >= 0.999
        assert found["on"][name]["coverage"] == 1
        # The quality of a segment is that of its mask, which no half-precision touches.
        assert found["on"][name]["objectness"] == pytest.approx(found["off"][name]["objectness"])


def test_instances_go_out_as_panoptic_annotations(photographs: Path, flags: list[str], tmp_path: Path) -> None:
    label(photographs, tmp_path / "out", *flags, "--segments", "query")
    rows = by_image(read_rows(tmp_path / "out"))
    for row in rows.values():
        # The masks' classes are tiny_models.GRID_CLASSES: three of grass, three persons, two lights.
        assert sorted(row["class_ids"]) == [0, 0, 0, 1, 1, 2, 2, 2]
        assert sum(row["areas"]) <= row["width"] * row["height"]
    done = command_here("export", tmp_path / "out", tmp_path / "panoptic", "--format", "panoptic")
    assert done.returncode == 0, done.stderr
    annotations = follow_the_panoptic_rules(tmp_path / "panoptic")
    document = json.loads((tmp_path / "panoptic" / "panoptic.json").read_text())
    assert [entry["isthing"] for entry in document["categories"]] == [1, 1, 0, 1, 1]
    names = {image["id"]: image["image_id"] for image in document["images"]}
    for annotation in annotations:
        segments = annotation["segments_info"]
        assert sorted(segment["category_id"] - 1 for segment in segments) == [0, 0, 0, 1, 1, 2]
        grass = [segment["area"] for segment in segments if segment["category_id"] == 3]
        row = rows[names[annotation["image_id"]]]
        assert grass == [sum(area for area, own in zip(row["areas"], row["class_ids"], strict=True) if own == 2)]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    server = FakeHub({})
    yield server
    server.close()


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_labels(
    photographs: Path, flags: list[str], hub: FakeHub, tmp_path: Path
) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for number in range(COPIES):
        for name in PHOTOGRAPHS:
            (source / f"{number:02d}-{name}.jpg").hardlink_to(photographs / f"{name}.jpg")
    words = ["label", str(source), str(tmp_path / "killed"), *flags, "--shard-size", str(SHARD_SIZE)]
    offline = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    attempt = Attempt(
        arguments=[*words, "--cpus", "2", "--gpus", "0"], log=tmp_path / "log", model=BUNDLED, environment=offline
    )
    process = attempt.start()
    assert wait_for_markers(tmp_path / "killed", 4, process, LONGEST_S), attempt.log.read_text()[-3000:]
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    kill_leftovers(process.pid)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("stats/*.json")}
    shards = COPIES * len(PHOTOGRAPHS) // SHARD_SIZE
    assert 4 <= len(done) < shards
    again = command_here(*words)
    assert again.returncode == 0, again.stderr
    assert re.search(rf"\d+ of {shards} shards to do", again.stderr)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in done.items())
    assert summary(tmp_path / "killed")["images"] == COPIES * len(PHOTOGRAPHS)
    assert not hub.requests
    label(photographs, tmp_path / "whole", *flags)
    whole, rows = by_image(read_rows(tmp_path / "whole")), by_image(read_rows(tmp_path / "killed"))
    assert len(rows) == COPIES * len(PHOTOGRAPHS)
    for name, row in rows.items():
        of_its_own = ("image_id", "uri", "shard", "row")
        once = whole[name.partition("-")[2]]
        assert {k: v for k, v in row.items() if k not in of_its_own} == {
            k: v for k, v in once.items() if k not in of_its_own
        }
