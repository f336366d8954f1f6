"""What continuous integration runs: the README's test command as a user types it, and each slow test once."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = (ROOT / ".ci" / "run").read_text()
PARTS = dict(re.findall(r'^part "([^"]+)" ((?:.*\\\n)*.*)$', SCRIPT, flags=re.MULTILINE))


def test_the_readmes_test_command_runs_in_the_environment_as_it_is() -> None:
    assert "make test " in (ROOT / "README.md").read_text()
    assert PARTS["make test"] == "make test"
    assert not re.search(r"^\s*(export|env) |\b[A-Z_]+=\S* (make|\.venv)", SCRIPT, flags=re.MULTILINE)


def test_the_slow_tests_are_cut_into_parts_without_a_gap() -> None:
    slow = {name: command.split() for name, command in PARTS.items() if name.startswith("slow: ")}
    rest = slow.pop("slow: the rest")
    apart = [command[-1] for command in slow.values()]
    assert [rest[at + 1] for at, word in enumerate(rest) if word == "--ignore"] == apart
    assert rest[1] == "tests"
    assert all((ROOT / path).exists() for path in apart)
