"""The command as a whole: what it offers, how it starts, how it ends."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from importlib.metadata import version

import pytest
import typer
from typer.testing import CliRunner

from maskmill.jobs.main import COMMANDS, app
from maskmill.pipeline.errors import UsageError

HEAVY = {"torch", "ray", "open_clip", "torchvision", "pandas", "pyarrow", "s3fs", "scipy"}


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["--version"], ["no-such-command"]])
def test_starting_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from maskmill.jobs.main import app\n"
        "try: app(sys.argv[1:])\n"
        f"except SystemExit: print('LOADED', *sorted({HEAVY!r} & set(sys.modules)))"
    )
    assert python(code, *arguments).stdout.splitlines()[-1] == "LOADED"


def test_no_commands_help_needs_torch_or_ray() -> None:
    code = (
        "import sys; from maskmill.jobs.main import COMMANDS, app\n"
        "for name in COMMANDS:\n"
        "    app([name, '--help'], standalone_mode=False)\n"
        "print('LOADED', *sorted({'torch', 'ray', 'open_clip', 'torchvision'} & set(sys.modules)))"
    )
    result = python(code)
    assert result.stdout.splitlines()[-1] == "LOADED", result.stderr


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"maskmill {version('maskmill')}\n"


def test_an_unknown_command_lists_those_there_are() -> None:
    result = CliRunner().invoke(app, ["statsu"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no command 'statsu'; did you mean 'status'? Commands: ")
    assert result.stderr.rstrip().endswith(", ".join(COMMANDS))


def test_without_arguments_it_shows_the_commands() -> None:
    result = CliRunner().invoke(app, [])
    assert [name for name in COMMANDS if f"\n  {name} " not in result.output] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_explains_itself(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output
    usage, _, explanation = result.stdout.partition("\n")
    assert re.match(rf"Usage: \S+ {name} ", usage)
    assert explanation.strip()


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> typer.Typer:
    """The real command with one more subcommand, ``fail``, and a group ``nested`` that has it too."""

    def fail() -> None:
        raise error

    nested = typer.Typer(no_args_is_help=True)
    nested.command()(fail)
    nested.command("other")(lambda: None)
    module = types.ModuleType("raising")
    vars(module).update(fail=fail, nested=nested)
    monkeypatch.setitem(sys.modules, "raising", module)
    monkeypatch.setitem(COMMANDS, "fail", ("raising", "fail", "Fail."))
    monkeypatch.setitem(COMMANDS, "nested", ("raising", "nested", "Fail further down."))
    return app


@pytest.mark.parametrize("arguments", [["fail"], ["nested", "fail"]])
def test_wrong_usage_is_one_line_and_exit_code_2(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    result = CliRunner().invoke(raising(monkeypatch, UsageError("no such place: x")), arguments)
    assert result.exit_code == 2
    assert (result.stdout, result.stderr) == ("", "error: no such place: x\n")


def test_interruption_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(raising(monkeypatch, KeyboardInterrupt()), ["fail"]).exit_code == 130


def test_other_errors_are_not_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(raising(monkeypatch, PermissionError("bucket is closed")), ["fail"])
    assert result.exit_code == 1
    assert isinstance(result.exception, PermissionError)


def test_anything_else_keeps_its_traceback_without_local_variables() -> None:
    code = (
        "import maskmill.pipeline.results.status; from maskmill.jobs.main import app\n"
        "def read_status(output, options):\n"
        "    secret = 'hunter' + '2'\n"
        "    raise PermissionError('bucket is closed')\n"
        "maskmill.pipeline.results.status.read_status = read_status\n"
        "app(['status', 'x'])"
    )
    result = python(code)
    assert result.returncode == 1
    assert "PermissionError: bucket is closed" in result.stderr
    assert "Traceback" in result.stderr
    assert "hunter2" not in result.stderr
