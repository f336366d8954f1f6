"""Whole tiny training runs: the files they write, resuming after a kill, several workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskmill.model.clip.loading import load_clip
from maskmill.model.zegformer.baseline import PerPixelBaseline
from maskmill.model.zegformer.checkpoint import load_baseline, load_zegformer
from maskmill.model.zegformer.training_classes import checkpoint_seen_classes
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.shapes import CLASSES
from maskmill.pipeline.training.conditions import CONDITIONS, conditions
from maskmill.pipeline.training.launch import Workers, train_on_ray
from maskmill.pipeline.training.train import TrainRequest, run_training
from tests.pipeline.training.tiny import CPU, TINY_BACKBONE, TINY_CLIP, metrics_of, tiny, tiny_request


@pytest.mark.parametrize("kind", ["grouping", "clip", "baseline"])
def test_a_run_leaves_weights_metrics_and_what_it_was(
    kind: str, drawings: Path, seen_drawings: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    data = drawings if kind == "clip" else seen_drawings
    final = run_training(tiny_request(kind, data, tmp_path, tiny(kind), None if kind == "clip" else tiny_clip), CPU)
    lines = metrics_of(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 4]
    assert lines[-1]["loss"] == final["loss"]
    assert all(np.isfinite(line["loss"]) for line in lines)
    if kind == "clip":
        embeddings = load_clip(tmp_path).encode_text(["red circle", "grass"])
        assert embeddings.shape == (2, 32)
        assert not torch.equal(embeddings[0], embeddings[1])
    elif kind == "baseline":
        assert isinstance(load_baseline(tmp_path), PerPixelBaseline)
    else:
        assert load_zegformer(tmp_path).config.queries == 8
        assert set(checkpoint_seen_classes(tmp_path)) == {entry.name for entry in CLASSES if entry.seen}


def test_clip_trains_on_predicted_masks(drawings: Path, tiny_clip: Path, seen_drawings: Path, tmp_path: Path) -> None:
    grouping = tmp_path / "grouping"
    run_training(tiny_request("grouping", seen_drawings, grouping, tiny("grouping", steps=150), tiny_clip), CPU)
    settings = [*tiny("clip"), f"init={tiny_clip}", f"proposals={grouping}"]
    settings.remove(f"model={json.dumps(TINY_CLIP)}")
    wanted = tiny_request("clip", drawings, tmp_path / "clip", [*settings, "model={}"])
    final = run_training(TrainRequest(**{**_fields(wanted), "validation": str(drawings)}), CPU)
    assert {"top1_on_true_masks", "top1_on_predicted_masks"} <= final.keys()
    before, after = load_clip(tiny_clip), load_clip(tmp_path / "clip")
    names = ["red circle", "a photo of a moon"]
    assert torch.equal(before.encode_text(names), after.encode_text(names))  # grouping was trained against these
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(before.encode_image(image), after.encode_image(image))


def _fields(wanted: TrainRequest) -> dict[str, Any]:
    return {name: getattr(wanted, name) for name in TrainRequest.__dataclass_fields__}


def test_a_killed_run_goes_on_to_the_same_weights(seen_drawings: Path, tiny_clip: Path, tmp_path: Path) -> None:
    """It begins with two threads, goes on in a process that has one, and ends as a run with two threads does."""
    single, whole, killed = (tmp_path / name for name in ("single", "whole", "killed"))
    settings = tiny("grouping", steps=6)
    for threads, out in ((1, single), (2, whole)):
        torch.set_num_threads(threads)
        run_training(tiny_request("grouping", seen_drawings, out, settings, tiny_clip), CPU)
    weights = "zegformer.safetensors"
    assert (single / weights).read_bytes() != (whole / weights).read_bytes(), "threads decide about the last bits"
    command = [
        *(sys.executable, "-m", "maskmill.jobs.main", "train", "grouping", "--workers", "0"),
        *("--data", str(seen_drawings), "--classes", str(seen_drawings / "classes.json"), "--out", str(killed)),
        *(part for setting in [*settings, f"clip={tiny_clip}"] for part in ("--set", setting)),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert process.stderr is not None
    while '"step": 3' not in (
        line := process.stderr.readline()
    ):  # there is a line for every step, and a checkpoint for every second
        assert line, "ended before it could be killed"
    process.kill()
    process.communicate()
    assert not (killed / weights).exists()
    resumed = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert "other conditions" not in resumed.stderr
    assert (killed / weights).read_bytes() == (whole / weights).read_bytes()
    timeless = [{k: v for k, v in line.items() if "seconds" not in k} for line in metrics_of(killed)]
    assert timeless == [{k: v for k, v in line.items() if "seconds" not in k} for line in metrics_of(whole)]


def test_what_a_resumed_run_cannot_take_over_is_named(
    seen_drawings: Path, tiny_clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tiny("baseline", steps=4)
    run_training(tiny_request("baseline", seen_drawings, tmp_path, settings, tiny_clip), CPU)
    path = tmp_path / "checkpoint.pt"
    whole = (tmp_path / "baseline.safetensors").read_bytes()
    state = torch.load(path, weights_only=True)
    assert state["progress"][CONDITIONS] == conditions(CPU, workers=1)
    state["progress"] |= {"step": 3, CONDITIONS: {**state["progress"][CONDITIONS], "torch": "1.0", "device": "abacus"}}
    torch.save(state, path)
    run_training(tiny_request("baseline", seen_drawings, tmp_path, settings, tiny_clip), CPU)
    (record,) = [record for record in caplog.records if record.name == "maskmill.pipeline.training.conditions"]
    assert f"torch 1.0 before and {torch.__version__} now" in record.message
    assert "device abacus before and" in record.message
    assert "numpy" not in record.message
    assert (tmp_path / "baseline.safetensors").read_bytes() != whole, "it went on"
    caplog.clear()
    run_training(tiny_request("baseline", seen_drawings, tmp_path, settings, tiny_clip), CPU)
    assert not caplog.records, "a finished run is left alone"


def test_a_checkpoint_of_other_settings_is_refused(seen_drawings: Path, tiny_clip: Path, tmp_path: Path) -> None:
    run_training(tiny_request("baseline", seen_drawings, tmp_path, tiny("baseline"), tiny_clip), CPU)
    with pytest.raises(UsageError, match="loop"):
        run_training(tiny_request("baseline", seen_drawings, tmp_path, tiny("baseline", steps=5), tiny_clip), CPU)


# Two workers average their gradients, which is one worker's gradient over the whole batch where the loss is a mean
# over equally many pixels and no batch norm mixes images. Largest difference of a weight measured: 7.1e-8.
@pytest.mark.slow
@pytest.mark.usefixtures("idle_ray")
def test_two_workers_train_as_one(seen_drawings: Path, tiny_clip: Path, tmp_path: Path) -> None:
    settings = [*tiny("baseline"), "data.scale_least=1.2", "loop.learning_rate=1e-4"]
    model = {"backbone": {**TINY_BACKBONE, "norm": "frozen"}, "conv_dim": 32, "mask_dim": 16}
    settings.append(f"model={json.dumps(model)}")
    one = tiny_request("baseline", seen_drawings, tmp_path / "one", settings, tiny_clip)
    two = tiny_request("baseline", seen_drawings, tmp_path / "two", settings, tiny_clip)
    final = run_training(one, CPU)
    on_ray = train_on_ray(two, Workers(count=2, cpus=1))
    assert on_ray["loss"] == pytest.approx(final["loss"], rel=1e-5)
    ours, theirs = load_baseline(tmp_path / "one").state_dict(), load_baseline(tmp_path / "two").state_dict()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("idle_ray")
@pytest.mark.parametrize("kind", ["grouping", "clip"])
def test_two_workers_finish(kind: str, drawings: Path, seen_drawings: Path, tiny_clip: Path, tmp_path: Path) -> None:
    data = drawings if kind == "clip" else seen_drawings
    wanted = tiny_request(kind, data, tmp_path, tiny(kind), None if kind == "clip" else tiny_clip)
    assert np.isfinite(train_on_ray(wanted, Workers(count=2, cpus=1))["loss"])
    assert [line["step"] for line in metrics_of(tmp_path)] == [1, 2, 3, 4, 4]


def test_checkpoints_need_a_folder(seen_drawings: Path) -> None:
    wanted = tiny_request("clip", seen_drawings, seen_drawings, tiny("clip"))
    with pytest.raises(UsageError, match="folder"):
        TrainRequest(**{**_fields(wanted), "out": "s3://bucket/out"})
