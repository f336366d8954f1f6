"""Runs of earlier versions, which knew fewer settings, go on; a setting that differs from its default is a change."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest
from pydantic import Field

from maskmill.model import spec
from maskmill.model.naming.settings import NamingSettings
from maskmill.model.presets import PRESETS
from maskmill.pipeline import config as settings
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.run.plan import Plan, plan_run
from maskmill.pipeline.run.record import digest
from tests.jobs.finished_runs import CLASSES, add_images, finished, label, refused

ADDED_TO_THE_MODEL = (
    "proposer",
    "image_prompts",
    "synonyms",
    "pool_mask",
    "min_visible",
    "attend_side",
    "query_segments",
)
ADDED_TO_THE_OUTPUT = ("segments", "sample_bits", "min_score", "min_stability", "min_area", "image_column")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two images in ``in`` and the run that labelled them in ``out``."""
    monkeypatch.chdir(tmp_path)
    add_images(tmp_path / "in", "a.png", "b.png")
    finished("in", "out")
    return tmp_path


def forget(out: Path, *parts: str) -> None:
    """Take parts out of the fingerprint in run.json, as if the version that wrote it had not known them."""
    run = json.loads((out / "run.json").read_text())
    for part in parts:
        del run["fingerprint"][part]
    (out / "run.json").write_text(json.dumps(run))


def test_a_run_that_knew_fewer_settings_goes_on(here: Path) -> None:
    forget(here / "out", *ADDED_TO_THE_MODEL, *ADDED_TO_THE_OUTPUT)
    result = label("in", "out")
    assert result.exit_code == 0, result.output
    assert "0 of 1 shards to do" in result.stderr
    plan = plan_run(LabelConfig(input="in", output="out", classes=CLASSES))
    assert plan.record.fingerprint == json.loads((here / "out" / "run.json").read_text())["fingerprint"]


@pytest.mark.parametrize(
    ("part", "flags"),
    [
        ("synonyms", ["--synonyms", "max"]),
        ("min_visible", ["--min-visible", "3"]),
        ("attend_side", ["--attend-side", "64"]),
        ("sample_bits", ["--sample-bits", "12"]),
        ("min_score", ["--min-score", "0.2"]),
    ],
)
def test_a_run_that_did_not_know_a_setting_had_its_default(here: Path, part: str, flags: list[str]) -> None:
    forget(here / "out", part)
    assert f"made with other settings: {part} changed." in refused(label("in", "out", *flags))


def test_a_run_with_a_setting_that_is_not_known_here_is_another(here: Path) -> None:
    run = json.loads((here / "out" / "run.json").read_text())
    run["fingerprint"]["sharpness"] = "3"
    (here / "out" / "run.json").write_text(json.dumps(run))
    assert "made with other settings: sharpness changed." in refused(label("in", "out"))


@dataclass(frozen=True, kw_only=True, slots=True)
class NewerNaming(NamingSettings):
    """Naming settings of a later version, which has one more."""

    sharpness: int = field(default=2, metadata={"help": "Of outlines.", "at_least": 0, "at_most": None})


def test_a_naming_setting_added_later_does_not_change_older_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = PRESETS["bundled"]

    def plan_later(sharpness: int) -> Plan:
        naming = NewerNaming(**asdict(bundled.naming), sharpness=sharpness)
        monkeypatch.setitem(PRESETS, "bundled", replace(bundled, naming=naming))
        return plan_run(LabelConfig(input="in", output="out", classes=CLASSES))

    monkeypatch.setattr(spec, "NamingSettings", NewerNaming)
    plan = plan_later(sharpness=2)
    assert (len(plan.shards), len(plan.tasks), plan.start_anew) == (1, 0, False)
    with pytest.raises(UsageError, match="made with other settings: sharpness changed"):
        plan_later(sharpness=3)


class NewerConfig(LabelConfig):
    """Settings of a later version, which has one more that changes what is written."""

    smoothing: int = Field(2, ge=0, description="Radius of the smoothing of outlines.")


def test_a_setting_added_later_does_not_change_older_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "OUTPUT_SETTINGS", (*settings.OUTPUT_SETTINGS, "smoothing"))
    monkeypatch.setattr(settings, "LabelConfig", NewerConfig)
    plan = plan_run(NewerConfig(input="in", output="out", classes=CLASSES))
    assert (len(plan.shards), len(plan.tasks), plan.start_anew) == (1, 0, False)
    with pytest.raises(UsageError, match="made with other settings: smoothing changed"):
        plan_run(NewerConfig(input="in", output="out", classes=CLASSES, smoothing=3))
    anew = plan_run(NewerConfig(input="in", output="another", classes=CLASSES, smoothing=3))
    assert anew.record.fingerprint["smoothing"] == digest(3)
