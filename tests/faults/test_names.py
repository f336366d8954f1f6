"""Class names, folders and images of any script go through a real run, and are shown on a terminal of ASCII."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from maskmill.jobs.main import app
from tests.faults.attempts import Attempt
from tests.faults.images import small_jpeg
from tests.faults.kill_matrix import Place, rows

NAMES = ("猫", "🐈‍⬛ éléphant", "قطة", "長" * 300)


def test_names_of_any_script(tmp_path: Path, place: Place) -> None:
    source, output = tmp_path / "图像 é", tmp_path / "结果 🐈"
    source.mkdir()
    for number in range(40):
        (source / f"قطة {number}.jpg").write_bytes(small_jpeg(number))
    arguments = ["label", str(source), str(output), "--classes", ",".join(NAMES), "--cpus", "2", "--gpus", "0"]
    attempt = Attempt(arguments=[*arguments, "--shard-size", "10", *place.arguments], log=tmp_path / "log")
    assert attempt.run(timeout_s=200) == 0, attempt.log.read_text()
    labels = rows(output, "labels")
    assert len(labels) == 40
    assert {name for row in labels for name in row["class_names"]} == set(NAMES)
    assert "metrics" not in attempt.log.read_text()
    again = CliRunner(charset="ascii").invoke(app, attempt.arguments)
    assert again.exit_code == 0, again.output
    assert "\\u732b" in again.stdout
    assert "\\u7ed3\\u679c" in again.stdout
