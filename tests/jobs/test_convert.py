"""`maskmill convert` on the small official checkpoint of the golden files, and on what is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from maskmill.jobs.main import app
from maskmill.model.zegformer.checkpoint import load_zegformer

OFFICIAL = Path(__file__).parents[1] / "golden" / "zegformer_tiny.pth"


def test_the_converted_model_holds_the_same_weights(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["convert", str(OFFICIAL), str(tmp_path / "ours")])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["zegformer.json", "zegformer.safetensors"]
    assert str(tmp_path / "ours" / "zegformer.safetensors") in result.stdout
    official, ours = load_zegformer(OFFICIAL), load_zegformer(tmp_path / "ours")
    assert ours.config == official.config
    assert official.state_dict().keys() == ours.state_dict().keys()
    for name, value in official.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name


def test_a_damaged_file_fails_with_its_name_and_leaves_nothing(tmp_path: Path) -> None:
    damaged = tmp_path / "cut.pth"
    damaged.write_bytes(OFFICIAL.read_bytes()[:50_000])
    result = CliRunner().invoke(app, ["convert", str(damaged), str(tmp_path / "ours")])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert str(damaged) in result.stderr
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("source", "destination", "words"),
    [("missing.pth", "new", "no checkpoint at"), (str(OFFICIAL), "full", "exists and is not empty")],
)
def test_wrong_places_are_wrong_usage(tmp_path: Path, source: str, destination: str, words: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    result = CliRunner().invoke(app, ["convert", source, str(tmp_path / destination)])
    assert result.exit_code == 2
    assert words in result.stderr
