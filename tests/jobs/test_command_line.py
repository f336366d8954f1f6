"""The command line is a contract: every command and option is listed in command_line.txt, and nothing creeps in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from maskmill.jobs.main import COMMANDS, app

PINNED = Path(__file__).with_name("command_line.txt")


def command_lines(command: Any, words: str) -> Iterator[str]:
    """``maskmill label INPUT``, ``maskmill label --classes`` ...: one line for each argument and option."""
    if words == "maskmill":
        children = {name: command.get_command(None, name) for name in COMMANDS}
    else:
        children = getattr(command, "commands", {})
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            yield f"{words} {parameter.metavar}"
        else:
            yield f"{words} {'/'.join([*parameter.opts, *parameter.secondary_opts])}"
    for name, child in children.items():
        yield from command_lines(child, f"{words} {name}")


def test_the_command_line_is_what_was_agreed() -> None:
    found = list(command_lines(typer.main.get_command(app), "maskmill"))
    agreed = PINNED.read_text().splitlines()
    new, gone = sorted(set(found) - set(agreed)), sorted(set(agreed) - set(found))
    assert not new, f"if these options are meant to be, add them to {PINNED.name} and to CHANGELOG.md"
    assert not gone, f"users may rely on these; if they are meant to go, take them out of {PINNED.name}"
    assert len(found) == len(set(found))
