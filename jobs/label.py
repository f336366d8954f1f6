"""``maskmill label``: the main job. Rerunning the same command continues it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

import typer

from jobs.options import build_command
from pipeline.config import LabelConfig

if TYPE_CHECKING:
    from pipeline.plan import Plan

EXIT_COMPLETE = 0
EXIT_FAILED = 1
EXIT_TOO_MANY_FAILED = 3
EXIT_NOTHING_NEW = 4


def run_label(config: LabelConfig) -> int:
    """Plan, run, report; returns the exit code."""
    from pipeline.plan import plan_run

    return execute(plan_run(config))


def execute(plan: Plan) -> int:
    """Say what will be done, do it and show what came out; returns the exit code."""
    from jobs.console import plan_lines, progress_display, set_up_logging, show_result
    from pipeline.driver import StalledError
    from pipeline.interruption import InterruptedRunError
    from pipeline.lease import LeaseHeldError, LeaseLostError
    from pipeline.run import run_plan

    set_up_logging(plan.config.log_format)
    for line in plan_lines(plan):
        typer.echo(line, err=True)
    if plan.config.dry_run:
        return EXIT_COMPLETE
    try:
        with progress_display(plan.config.log_format) as on_progress:
            result = run_plan(plan, on_progress)
    except InterruptedRunError as interruption:
        typer.echo(f"{interruption}; run the same command to continue", err=True)
        _leave(interruption.exit_code)
    except StalledError as error:
        typer.echo(f"error: {error}", err=True)
        _leave(EXIT_FAILED)
    except (LeaseHeldError, LeaseLostError) as error:
        typer.echo(f"error: {error}", err=True)
        return EXIT_FAILED
    if plan.nothing_new:
        return EXIT_NOTHING_NEW if plan.config.if_nothing_new == "exit-code" else EXIT_COMPLETE
    show_result(plan, result)
    return EXIT_COMPLETE if result.failed_share <= plan.config.max_failed else EXIT_TOO_MANY_FAILED


def _leave(exit_code: int) -> NoReturn:
    """End this process now: a thread is still inside Ray Data, and tearing the interpreter down under it crashes.

    A Ray of our own ends with its driver; in a cluster this ends the job's actors.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


label = build_command(
    LabelConfig,
    run_label,
    positional=("input", "output"),
    name="label",
    help="Label every image of INPUT and write masks, labels and statistics to OUTPUT; rerun to resume.",
)
