"""A run's own files that somebody changed: named by file and entry, whichever command reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from maskmill.jobs.main import app
from tests.pipeline.evaluation.handmade import THREE, Run, wide, write_folder

GOOD = [{"class_id": i, "name": name} for i, name in enumerate(("sky", "cat", "dog"))]


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("classes.json", "{", "classes.json is damaged, it is no valid JSON"),
        ("classes.json", [], "classes.json is damaged: it holds list"),
        ("classes.json", {}, "classes.json: classes is missing"),
        ("classes.json", {"classes": [GOOD[0], "cat"]}, "classes.json: classes[1]: must be a mapping"),
        ("classes.json", {"classes": [GOOD[0], {"class_id": 1}]}, "classes.json: classes[1].name is missing"),
        ("classes.json", {"classes": [GOOD[0], GOOD[2]]}, "classes.json: classes[1].class_id: 2 does not follow 0"),
        ("classes.json", {"classes": [{**GOOD[0], "seen": "yes"}]}, "classes.json: classes[0].seen: "),
        ("classes.json", {"classes": [{**GOOD[0], "colour": [1, 2]}]}, "classes.json: classes[0].colour: "),
        ("run.json", "{", "run.json is damaged, it is no valid JSON"),
        ("run.json", [], "run.json is damaged: it holds list"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "export", "show", "report"])
def test_a_changed_file_is_named(command: str, file: str, content: Any, message: str, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", THREE["classes"])
    labels = np.zeros((4, 6), np.uint8)
    run.add("s", {"a": wide(labels)})
    protocol, truth = tmp_path / "three.json", write_folder(tmp_path / "gt", {"a": labels})
    protocol.write_text(json.dumps(THREE))
    (run.folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
    arguments = {
        "evaluate": [str(truth), "--protocol", str(protocol)],
        "export": [str(tmp_path / "out"), "--format", "png"],
        "show": ["a"],
        "report": [],
    }
    result = CliRunner().invoke(app, [command, str(run.folder), *arguments[command]])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert message in line
