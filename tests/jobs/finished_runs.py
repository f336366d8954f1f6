"""Finished runs without a model, made by the planning and the commits of real ones, for tests of what comes after."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from maskmill.jobs.main import app
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.output.clearing import remove_orphans
from maskmill.pipeline.output.commit import CommitRequest, commit_shard
from maskmill.pipeline.output.folder import part_name
from maskmill.pipeline.output.schema import ERRORS
from maskmill.pipeline.run.history import new_attempt, write_attempt
from maskmill.pipeline.run.plan import Plan, plan_run
from maskmill.pipeline.run.record import write_record
from maskmill.pipeline.run.summary import finish_run
from maskmill.pipeline.sources import read_shard

CLASSES = "cat,dog"


def add_images(folder: Path, *names: str) -> Path:
    """Small images of these names in ``folder``; a later one of a name has another date and size."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        side = 8 if not (folder / name).exists() else 16
        Image.new("RGB", (side, side)).save(folder / name)
        os.utime(folder / name, ns=(side, side * 10**9))
    return folder


def told(*arguments: str | Path) -> Result:
    """What the command says, in this process, whose log is left as it was."""
    log = logging.getLogger()
    handlers, level = log.handlers[:], log.level
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    log.handlers[:], log.level = handlers, level
    return result


def label(*arguments: str | Path) -> Result:
    """``maskmill label ... --dry-run``."""
    return told("label", *arguments, "--classes", CLASSES, "--dry-run")


def refused(result: Result) -> str:
    """The one line of a refusal."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def files_below(folder: Path) -> set[str]:
    """Every file and link, relative to the folder."""
    paths = folder.rglob("*")
    return {path.relative_to(folder).as_posix() for path in paths if path.is_symlink() or not path.is_dir()}


def finished(source: str | Path, output: str | Path, **settings: Any) -> Plan:
    """A run that has ended, every image of which failed."""
    config = LabelConfig(input=str(source), output=str(output), **{"classes": CLASSES, **settings})
    plan = plan_run(config)
    write_record(plan.output, plan.record, plan.vocabulary)
    attempt = new_attempt(plan.record.run_id)
    for task in plan.tasks:
        shard, part = task.shard, f"{task.shard.shard_id}-0"
        rows = [
            {"image_id": record.image_id, "uri": record.uri, "shard": shard.shard_id, "row": record.row, "attempts": 1}
            | {"stage": "decode", "error_class": "truncated", "error_message": "cut off"}
            for record in read_shard(shard, config.storage_option)
        ]
        table = pa.Table.from_pylist(rows, schema=ERRORS)
        plan.output.write_table(part_name(attempt.attempt, "errors", part), table)
        request = CommitRequest(
            shard=shard,
            attempt=attempt.attempt,
            rows=len(rows),
            parts=[part],
            run_id=plan.record.run_id,
            fingerprint=plan.record.digest,
        )
        commit_shard(plan.output, request)
    remove_orphans(plan.output, attempt.attempt)
    finish_run(plan, attempt)
    write_attempt(plan.output, attempt)
    return plan
