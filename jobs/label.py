"""``maskmill label``: labels images. The same command again continues a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from maskmill.jobs.leaving import leave
from maskmill.jobs.options import build_command
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.uris import public_text

if TYPE_CHECKING:
    from maskmill.pipeline.run.plan import Plan
    from maskmill.pipeline.run.summary import RunResult

EXIT_COMPLETE = 0
EXIT_FAILED = 1
EXIT_WRONG_USAGE = 2
EXIT_TOO_MANY_FAILED = 3
EXIT_NOTHING_NEW = 4


def run_label(config: LabelConfig) -> int:
    """Plan the run, execute it, report how it ended; return the exit code."""
    from maskmill.pipeline.run.plan import plan_run

    try:
        plan = plan_run(config)
    except UsageError as error:
        _notify(config, EXIT_WRONG_USAGE, error=str(error))
        raise
    return execute(plan)


def execute(plan: Plan) -> int:
    """Show the plan, execute it, and show the result; return the exit code."""
    from maskmill.jobs.console import plan_lines, set_up_logging, show_result

    set_up_logging(plan.config.log_format, run=plan.record.run_id)
    for line in plan_lines(plan):
        typer.echo(line, err=True)
    if plan.config.dry_run:
        return EXIT_COMPLETE
    try:
        end = _run(plan)
    except Exception as error:
        _notify(plan.config, EXIT_FAILED, plan.record.run_id, error=type(error).__name__)
        raise
    _notify(plan.config, end.exit_code, plan.record.run_id, end.result, end.error)
    if end.error is not None:
        typer.echo(public_text(end.error), err=True)
    if end.still_running:
        leave(end.exit_code)
    if end.result is not None and not plan.nothing_new:
        show_result(plan, end.result)
    return end.exit_code


@dataclass(frozen=True, slots=True)
class _End:
    """How a run ended. still_running: a thread still runs inside Ray Data, and cannot be stopped."""

    exit_code: int
    result: RunResult | None = None
    error: str | None = None
    still_running: bool = False


def _run(plan: Plan) -> _End:
    from maskmill.jobs.console import progress_display
    from maskmill.pipeline.cluster.attended import StalledError, WorkersBrokenError
    from maskmill.pipeline.interruption import InterruptedRunError, signals_raised
    from maskmill.pipeline.output.lease import LeaseHeldError, LeaseLostError
    from maskmill.pipeline.run.execute import run_plan

    try:
        with signals_raised(), progress_display(plan.config.log_format) as on_progress:
            result = run_plan(plan, on_progress)
    except InterruptedRunError as interruption:
        error = f"{interruption}; run the same command to continue"
        return _End(interruption.exit_code, error=error, still_running=True)
    except (StalledError, WorkersBrokenError, LeaseLostError) as ended:
        return _End(EXIT_FAILED, error=f"error: {ended}", still_running=True)
    except LeaseHeldError as refused:
        return _End(EXIT_FAILED, error=f"error: {refused}")
    if plan.nothing_new:
        return _End(EXIT_NOTHING_NEW if plan.config.if_nothing_new == "exit-code" else EXIT_COMPLETE, result)
    return _End(EXIT_COMPLETE if result.failed_share <= plan.config.max_failed else EXIT_TOO_MANY_FAILED, result)


def _notify(
    config: LabelConfig,
    exit_code: int,
    run_id: str | None = None,
    result: RunResult | None = None,
    error: str | None = None,
) -> None:
    """Send how the run ended to --notify-url, if it is given."""
    if config.notify_url is None or config.dry_run:
        return
    from maskmill.pipeline.run.notify import ended_message, notify
    from maskmill.pipeline.storage.files import public_uri

    summary = None if result is None else result.summary
    message = ended_message(
        output=public_uri(config.output), exit_code=exit_code, run_id=run_id, summary=summary, error=error
    )
    notify(config.notify_url, message)


label = build_command(
    LabelConfig,
    run_label,
    positional=("input", "output"),
    name="label",
    help="Label every image of INPUT and write masks, labels and statistics to OUTPUT; rerun to resume.",
)
