"""`maskmill demo` stops where a step fails, with that step's exit code. tests/docs/ runs the whole of it."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from maskmill.jobs.main import app


def test_a_step_that_fails_ends_it_with_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "holiday.jpg").touch()  # `maskmill shapes` draws nothing among the files of others
    result = CliRunner().invoke(app, ["demo", str(tmp_path), "--images", "2"])
    assert result.exit_code == 2
    assert f"$ maskmill shapes {tmp_path}/images --images 2" in result.stdout
    assert "$ maskmill label" not in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
