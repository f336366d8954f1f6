"""A command made from a small model: where values come from, which wins, and what wrong input is told."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typer.testing import CliRunner, Result

from maskmill.jobs.main import COMMANDS, app
from maskmill.jobs.options import build_command, resolve
from maskmill.pipeline.errors import UsageError


class Job(BaseModel):
    """One field of every kind a command may have."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(description="Where from.")
    batch_size: int = Field(8, ge=1, description="Images per call.")
    share: Annotated[float, Field(ge=0, le=1)] = Field(0.5, description="A share.")
    limit: int | None = Field(None, ge=1, description="At most this many.")
    mode: Literal["crop", "mask"] | None = Field(None, description="What is seen.")
    fuse: Literal["auto", "on", "off"] = Field("auto", description="One pool or two.")
    overwrite: bool = Field(False, description="Start anew.")
    names: list[str] = Field(default_factory=list, description="Several names.")
    storage_option: dict[str, str] = Field(default_factory=dict, description="For the file system.")

    @model_validator(mode="after")
    def _fits(self) -> Job:
        if self.limit is not None and self.limit < self.batch_size:
            raise ValueError("limit must not be smaller than batch-size")
        return self


def invoke(*arguments: str) -> tuple[Result, list[Job]]:
    """Run ``maskmill try`` with a command made from Job; the jobs it was called with."""
    jobs: list[Job] = []

    def run(job: Job) -> int:
        jobs.append(job)
        return 3

    module = types.ModuleType("trial")
    vars(module)["trial"] = build_command(Job, run, positional=("source",), name="try", help="Try it.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "trial", module)
        patch.setitem(COMMANDS, "try", ("trial", "trial", "Try it."))
        return CliRunner().invoke(app, ["try", *arguments]), jobs


def job(*arguments: str) -> Job:
    result, jobs = invoke(*arguments)
    assert result.exit_code == 3, result.output
    return jobs[0]


def complaint(*arguments: str) -> str:
    result, jobs = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert jobs == []
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text("source: from-file\nbatch-size: 2\nlimit: 20\nstorage_option: {anon: 'true', region: north}\n")
    return path


def test_defaults_are_the_models() -> None:
    assert job("here") == Job(source="here")


def test_every_kind_of_flag() -> None:
    flags = ["--batch-size", "4", "--share", "0.25", "--limit", "9", "--mode", "mask", "--fuse", "off", "--overwrite"]
    flags += ["--names", "a", "--names", "b", "--storage-option", "url=http://h:1/?a=b", "--storage-option", "k=0123"]
    assert job("here", *flags) == Job(
        source="here",
        batch_size=4,
        share=0.25,
        limit=9,
        mode="mask",
        fuse="off",
        overwrite=True,
        names=["a", "b"],
        storage_option={"url": "http://h:1/?a=b", "k": "0123"},
    )


def test_precedence_is_defaults_file_set_flags(config: Path) -> None:
    assert job("--config", str(config)).batch_size == 2
    assert job("--config", str(config), "--set", "batch-size=3").batch_size == 3
    assert job("--config", str(config), "--set", "batch_size=3", "--batch-size", "4").batch_size == 4
    assert job("--config", str(config), "--set", "batch_size=3", "--batch-size", "8").batch_size == 8  # the default


def test_arguments_win_over_the_file(config: Path) -> None:
    assert job("--config", str(config)).source == "from-file"
    assert job("here", "--config", str(config)).source == "here"


def test_dict_entries_are_merged_and_null_resets(config: Path) -> None:
    changed = job("--config", str(config), "--set", "storage-option=region=south", "--set", "limit=null")
    assert changed.storage_option == {"anon": "true", "region": "south"}
    assert changed.limit is None


def test_a_flag_can_switch_off_what_the_file_switched_on(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("source: x\noverwrite: true\n")
    assert job("--config", str(path)).overwrite
    assert not job("--config", str(path), "--no-overwrite").overwrite
    assert not job("--config", str(path), "--set", "overwrite=false").overwrite


def test_on_and_off_in_yaml_are_words(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("source: no\nfuse: off\n")
    assert job("--config", str(path)) == Job(source="no", fuse="off")


def test_unknown_key_lists_the_valid_ones(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("source: x\nbatchsize: 4\n")
    valid = "Valid keys: batch-size, fuse, limit, mode, names, overwrite, share, source, storage-option"
    in_file = complaint("--config", str(path))
    assert f"unknown key 'batchsize' in {path}; did you mean 'batch-size'? {valid}" in in_file
    assert valid in complaint("x", "--set", "zzz=1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("x", "--batch-size", "many"), ["--batch-size", "integer", "'many'"]),
        (("x", "--batch-size", "0"), ["--batch-size", "greater than or equal to 1"]),
        (("x", "--share", "1.5"), ["--share", "less than or equal to 1", "'1.5'"]),
        (("x", "--mode", "cropp"), ["--mode", "'cropp'", "Choose from: crop, mask"]),
        (("x", "--set", "mode=cropp"), ["mode in --set", "Choose from: crop, mask"]),
        (("x", "--set", "overwrite=maybe"), ["overwrite in --set", "boolean", "'maybe'"]),
        (("x", "--set", "mode"), ["--set takes KEY=VALUE", "'mode'"]),
        ((), ["source is missing", "--config"]),
        (("x", "--limit", "3"), ["limit must not be smaller than batch-size"]),
        (("x", "--config", "no/such.yaml"), ["--config", "no/such.yaml", "No such file"]),
    ],
)
def test_wrong_values_name_key_value_and_choices(arguments: tuple[str, ...], words: list[str]) -> None:
    message = complaint(*arguments)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("limit: [1, 2]\nsource: x", ["limit in", "integer"]),
        ("source: x\nsource: y", ["not valid YAML", "'source' is given twice"]),
        ("- source", ["must hold `key: value` lines", "list"]),
        ("source: !!python/object/apply:os.getcwd []", ["not valid YAML", "python/object"]),
        ("a: b: c", ["not valid YAML", "line 1"]),
    ],
)
def test_wrong_files_say_what_is_wrong(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    message = complaint("--config", str(path))
    assert [word for word in [str(path), *words] if word not in message] == []


def test_secrets_are_not_repeated_in_messages(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("source: x\nstorage_option: {secret: [hunter2]}\n")
    for message in (complaint("--config", str(path)), complaint("x", "--storage-option", "hunter2")):
        assert "storage" in message
        assert "hunter2" not in message


def test_all_mistakes_are_reported_at_once() -> None:
    message = complaint("x", "--batch-size", "a", "--mode", "b")
    assert "--batch-size" in message
    assert "--mode" in message


def test_help_shows_description_choices_and_default() -> None:
    result, _ = invoke("--help")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for part in (
        "Try it.",
        "SOURCE",
        "Where from.",
        "--batch-size N Images per call. [default: 8]",
        "--mode crop|mask What is seen.",
        "--overwrite / --no-overwrite Start anew. [default: off]",
        "--storage-option K=V For the file system.",
        "--config FILE",
        "--set KEY=VALUE",
    ):
        assert part in text


def test_an_unknown_flag_is_wrong_usage() -> None:
    result, jobs = invoke("x", "--batch-sise", "3")
    assert result.exit_code == 2
    assert jobs == []
    assert "--batch-size" in result.stderr


def test_resolve_raises_usage_error_outside_a_command() -> None:
    with pytest.raises(UsageError, match="did you mean 'limit'"):
        resolve(Job, config_file=None, settings=["limt=3"], flags={"source": "x"})
