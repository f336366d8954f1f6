"""``maskmill label`` with weights named on the hub: forbidding licences are printed, and a run keeps its commits."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from maskmill.model.hub import HubName
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.run.plan import plan_run
from tests.jobs.finished_runs import add_images, finished, label, refused, told

EOMT, CLIP = "tue-mps/coco_panoptic_eomt_large_640", "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"
COMMIT, OTHER = "0123456789" * 4, "abcdef0123" * 4
NAMED = {"preset": "photo", "proposer": f"hf:{EOMT}@{COMMIT}", "clip": f"hf:{CLIP}@{COMMIT}"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a folder ``in`` of two images, and without a network."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    add_images(tmp_path / "in", "a.png", "b.png")
    return tmp_path


def flags(**settings: str) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def test_a_licence_that_forbids_commercial_use_is_printed_when_a_run_is_planned(here: Path) -> None:
    mask2former = f"hf:facebook/mask2former-swin-large-coco-panoptic@{COMMIT}"
    words = label("in", "out", *flags(**{**NAMED, "proposer": mask2former})).stderr
    assert (
        "warning: facebook/mask2former-swin-large-coco-panoptic is licensed under CC-BY-NC 4.0: non-commercial" in words
    )
    apple = f"hf:apple/DFN2B-CLIP-ViT-B-16@{COMMIT}"
    assert "research only (apple-amlr)" in label("in", "out", *flags(**{**NAMED, "clip": apple})).stderr
    assert "licensed" not in label("in", "out", *flags(**NAMED)).stderr


def test_another_commit_is_refused_on_resume(here: Path) -> None:
    finished("in", "out", **NAMED)
    assert label("in", "out", *flags(**NAMED)).exit_code == 0
    for part, name in (("proposer", EOMT), ("clip", CLIP)):
        changed = {**NAMED, part: f"hf:{name}@{OTHER}"}
        assert {"proposer": "weights", "clip": "clip"}[part] in refused(label("in", "out", *flags(**changed)))


def test_a_name_without_a_commit_keeps_the_commit_of_the_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = iter([COMMIT, COMMIT, OTHER, OTHER])
    asked = []

    def pinned(name: HubName) -> HubName:
        asked.append(name.repository)
        return HubName(name.repository, next(commits))

    monkeypatch.setattr("maskmill.model.fetching.pinned", pinned)
    first = finished("in", "out", preset="photo")
    assert asked == [EOMT, CLIP]
    assert (first.spec.proposer, first.spec.clip) == (f"hf:{EOMT}@{COMMIT}", f"hf:{CLIP}@{COMMIT}")
    # The hub has another commit by now, and is not asked.
    again = plan_run(LabelConfig(input="in", output="out", classes="cat,dog", preset="photo"))
    assert (again.spec, list(again.tasks)) == (first.spec, [])
    retried = told("retry", "out", "--dry-run")
    assert retried.exit_code == 0, retried.stderr
    assert len(asked) == 2
    elsewhere = plan_run(LabelConfig(input="in", output="other", classes="cat,dog", preset="photo"))
    assert elsewhere.spec.proposer == f"hf:{EOMT}@{OTHER}"
