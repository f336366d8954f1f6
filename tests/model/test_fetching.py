"""Names on the hub become commits when a run is planned, keep them on a rerun, and become folders where they load."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskmill.model.fetching import fetched_spec, pinned_spec
from maskmill.model.presets import PRESETS
from maskmill.model.spec import ModelSpec, spec_fingerprint
from maskmill.model.vocabulary import Vocabulary
from tests.model.fake_hub import FakeHub
from tests.model.tiny_clips import CONVNEXT, OPENAI_INPUT, save_open_clip

EOMT, CLIP = "tue-mps/coco_panoptic_eomt_large_640", "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"
COMMIT = "0123456789" * 4
OLDER = "abcdef0123" * 4
LOAD = """
import numpy as np
from maskmill.model.fetching import fetched_spec, pinned_spec
from maskmill.model.segmenter import load_segmenter
from maskmill.model.spec import ModelSpec
from maskmill.model.vocabulary import Vocabulary
spec = pinned_spec(ModelSpec(preset="photo", device="cpu", short_side=64, max_long_side=96, attend_side=64))
print(spec.proposer)
print(spec.clip)
segmenter = load_segmenter(fetched_spec(spec), Vocabulary(["person", "sky"]))
[result] = segmenter([np.zeros((60, 80, 3), np.uint8)])
print(result.label_map.shape)
"""


def test_local_folders_and_the_bundled_model_need_no_hub(tmp_path: Path) -> None:
    spec = ModelSpec(preset="photo", proposer=f"hf:{tmp_path}", clip=str(tmp_path))
    assert pinned_spec(spec) == spec == fetched_spec(spec)
    assert pinned_spec(ModelSpec()) == ModelSpec() == fetched_spec(ModelSpec())


def test_a_commit_of_the_users_is_kept() -> None:
    spec = ModelSpec(preset="photo", proposer=f"hf:owner/eomt@{COMMIT}", clip=f"hf:owner/clip@{COMMIT}")
    assert pinned_spec(spec, {"weights": f"owner/eomt@{OLDER}", "clip": f"hf:owner/clip@{OLDER}"}) == spec


def test_a_rerun_keeps_the_commits_of_the_first_run() -> None:
    recorded = {"weights": f"{EOMT}@{OLDER}", "clip": f"hf:{CLIP}@{OLDER}"}
    spec = pinned_spec(ModelSpec(preset="photo"), recorded)
    assert (spec.proposer, spec.clip) == (f"hf:{EOMT}@{OLDER}", f"hf:{CLIP}@{OLDER}")
    parts = spec_fingerprint(spec, Vocabulary(["cat"]))
    assert {key: parts[key] for key in recorded} == recorded
    other = pinned_spec(ModelSpec(preset="photo", proposer=f"hf:{EOMT}@{COMMIT}"), recorded)
    assert spec_fingerprint(other, Vocabulary(["cat"]))["weights"] == f"{EOMT}@{COMMIT}"


def test_openais_clip_is_left_to_open_clip() -> None:
    spec = ModelSpec(preset="zegformer-r101-coco", weights="w.pth")
    assert pinned_spec(spec).clip == "ViT-B-16-quickgelu:openai"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    from tests.model.sources.tiny_models import save

    server = FakeHub(
        {
            EOMT: save("eomt", tmp_path / "eomt"),
            CLIP: save_open_clip(tmp_path / "clip", CONVNEXT, OPENAI_INPUT),
        }
    )
    yield server
    server.close()


def test_the_preset_is_fetched_by_name_and_labels_a_picture(hub: FakeHub, tmp_path: Path) -> None:
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    run = subprocess.run(
        [sys.executable, "-c", LOAD], env={**os.environ, **settings}, capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        f"hf:{EOMT}@{hub.commit(EOMT)}",
        f"hf:{CLIP}@{hub.commit(CLIP)}",
        "(60, 80)",
    ]


def test_weights_are_baked_into_a_folder_that_labels_without_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    baked = tmp_path / "baked"
    command = [sys.executable, "-m", "maskmill.jobs.main", "models", "--fetch", "photo", "--into", str(baked)]
    run = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    assert dict(line.split() for line in run.stdout.splitlines()) == {
        "weights": str(baked / "weights"),
        "clip": str(baked / "clip"),
    }
    spec = ModelSpec(preset="photo", weights=str(baked / "weights"), clip=str(baked / "clip"), device="cpu")
    assert fetched_spec(pinned_spec(spec)) == spec
    from maskmill.model.segmenter import load_segmenter

    assert load_segmenter(spec, Vocabulary(["cat", "dog"])).proposer.names == ("person", "traffic light", "grass")


def test_no_preset_but_the_released_one_forbids_anything() -> None:
    for name, preset in PRESETS.items():
        assert ("non-commercial" in preset.licence) == name.startswith("zegformer")
