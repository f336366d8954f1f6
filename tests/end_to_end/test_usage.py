"""Wrong usage ends with exit code 2 and one clear line, before Ray starts and before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from maskmill.jobs.main import app
from tests.end_to_end.conftest import command_here


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{in}/nowhere", "{out}"], "nowhere"),
        (["{in}/empty", "{out}"], "empty"),
        (["{in}/wds", "{out}", "--no-such-flag", "1"], "no-such-flag"),
        (["{in}/wds", "{out}", "--set", "fusoin=clip"], "fusion"),
        (["{in}/wds", "{out}", "--fusion", "magic"], "ensembling-all"),
        (["{in}/wds", "{out}", "--preset", "nothing"], "bundled"),
        (["{in}/wds", "{out}", "--weights", "{in}/nowhere.pth"], "nowhere.pth"),
        (["{in}/wds", "{in}/wds"], "output"),
    ],
)
def test_is_refused_in_seconds(shapes: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wds").symlink_to(shapes / "wds")
    words = [word.format(**{"in": tmp_path, "out": tmp_path / "out"}) for word in arguments]
    result = CliRunner().invoke(app, ["label", *words, "--classes", str(shapes / "wds" / "classes.json")])
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.usefixtures("no_ray")
def test_more_actors_than_the_machine_has_room_for(shapes: Path, tmp_path: Path) -> None:
    classes = shapes / "wds" / "classes.json"
    actors = ("--cpus", "2", "--propose-actors", "99")
    result = command_here("label", shapes / "wds", tmp_path / "out", "--classes", classes, *actors)
    assert result.returncode == 2, result.stderr
    assert "propose_actors" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("classes", "message"),
    [("{in}/none.txt", "none.txt"), ("cat,dog,cat", "cat"), ("cat,,dog", "empty"), ("", "empty")],
)
def test_wrong_classes(shapes: Path, tmp_path: Path, classes: str, message: str) -> None:
    words = ["label", str(shapes / "wds"), str(tmp_path / "out"), "--classes", classes.format(**{"in": tmp_path})]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr


@pytest.mark.usefixtures("tiny_model", "local_ray")
def test_another_run_in_the_output_is_named(shapes: Path, tmp_path: Path) -> None:
    arguments = ("label", shapes / "wds", tmp_path / "out")
    assert command_here(*arguments, "--classes", "red circle,grass,sky,sea", "--limit", "1").returncode == 0
    refused = command_here(*arguments, "--classes", "red circle,sand,sky,sea", "--region", "crop")
    assert refused.returncode == 2
    assert "region, vocabulary changed" in refused.stderr
    anew = command_here(*arguments, "--classes", "red circle,sand,sky,sea", "--limit", "1", "--overwrite")
    assert anew.returncode == 0, anew.stderr
    assert "sand" in (tmp_path / "out" / "classes.json").read_text()


def test_a_dry_run_writes_nothing(shapes: Path, tmp_path: Path) -> None:
    words = ["label", str(shapes / "wds"), str(tmp_path / "out"), "--classes", "red circle", "--dry-run"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    assert "5 shards" in result.stderr
    assert not (tmp_path / "out").exists()
