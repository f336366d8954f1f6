"""The ``maskmill`` command: loads subcommands when they are called, and turns errors into messages and exit codes."""

from __future__ import annotations

import difflib
import io
import sys
import traceback
from importlib import import_module
from importlib.metadata import version as installed_version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from maskmill.jobs.leaving import leave
from maskmill.pipeline.cluster.attended import StalledError, WorkersBrokenError
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.interruption import InterruptedRunError, interrupts_remembered
from maskmill.pipeline.uris import public_text

EXIT_FAILED = 1
EXIT_WRONG_USAGE = 2
EXIT_INTERRUPTED = 130

# name: (module, function or typer app, summary). A module is imported only when its command is called, so that
# `maskmill --help` answers at once.
COMMANDS = {
    "demo": ("maskmill.jobs.demo", "demo", "Draw images, label, score and paint them: a first look."),
    "label": ("maskmill.jobs.label", "label", "Label images: masks, class names, statistics. Rerun to resume."),
    "status": ("maskmill.jobs.status", "status", "Show how far a run is, without starting anything."),
    "submit": ("maskmill.jobs.submit", "submit", "Run `label` on a Ray cluster: log and exit code come back."),
    "schedule": (
        "maskmill.jobs.schedule",
        "schedule",
        "Write Kubernetes manifests that run `label`, once or every night.",
    ),
    "history": (
        "maskmill.jobs.history",
        "history",
        "List the attempts on an output: when, how they ended, what they cost.",
    ),
    "retry": ("maskmill.jobs.retry", "retry", "Label again only the images that failed."),
    "evaluate": (
        "maskmill.jobs.evaluate",
        "evaluate",
        "Compare labels with ground truth: mIoU seen and unseen, and more.",
    ),
    "report": ("maskmill.jobs.report", "report", "Write one HTML page: figures, plots, gallery, what to review."),
    "show": ("maskmill.jobs.show", "show", "Draw the segments of one image."),
    "review": ("maskmill.jobs.review", "review", "List the segments a person should look at first."),
    "export": ("maskmill.jobs.export", "export", "Write COCO, panoptic, label maps, FiftyOne, YOLO or Hugging Face."),
    "models": ("maskmill.jobs.models", "models", "List the models: what each knows, needs and permits."),
    "convert": ("maskmill.jobs.convert", "convert", "Convert a released checkpoint to safetensors and JSON."),
    "train": ("maskmill.jobs.train", "app", "Train grouping, CLIP or the baseline on your own label maps."),
    "bench": ("maskmill.jobs.bench", "app", "Measure where the time goes: model, job, reading, growth."),
    "shapes": ("maskmill.jobs.shapes", "shapes", "Draw the data set the bundled model knows, with ground truth."),
}


class Subcommands(TyperGroup):
    """Looks subcommands up in COMMANDS, and turns errors into messages on stderr and exit codes."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return all names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and build one subcommand. Raises UsageError for an unknown name; the message lists the names."""
        if cmd_name.startswith("-"):
            return None
        if cmd_name not in COMMANDS:
            close = difflib.get_close_matches(cmd_name, COMMANDS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise UsageError(f"no command {cmd_name!r}{hint} Commands: {', '.join(COMMANDS)}")
        module, attribute, _ = COMMANDS[cmd_name]
        found = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            single = _plain_app()
            single.command(cmd_name)(found)
            found = single
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the table into the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in COMMANDS.items()])

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand. Unexpected errors show their traceback, without the secrets of addresses in it."""
        try:
            with interrupts_remembered():
                return super().invoke(ctx)
        except UsageError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(EXIT_WRONG_USAGE) from error
        except (StalledError, WorkersBrokenError) as error:
            typer.echo(f"error: {error}", err=True)
            leave(EXIT_FAILED)
        except InterruptedRunError as interruption:
            typer.echo(f"{interruption}; run the same command to continue", err=True)
            leave(interruption.exit_code)
        except KeyboardInterrupt as interruption:
            raise typer.Exit(EXIT_INTERRUPTED) from interruption
        except Exception as error:
            shown = traceback.format_exc()
            # Let typer handle its exceptions, which know their exit code, and errors whose traceback has no secrets.
            if hasattr(error, "exit_code") or public_text(shown) == shown:
                raise
            typer.echo(public_text(shown), err=True)
            raise typer.Exit(EXIT_FAILED) from error


def _plain_app(**settings: Any) -> typer.Typer:
    # Show tracebacks as Python does: those of typer show local variables, and some of these are credentials. Show help
    # as plain text: the tables of rich cut long flags off on a terminal of 80 columns.
    return typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, **settings)


app = _plain_app(cls=Subcommands, no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"maskmill {installed_version('maskmill')}")
        raise typer.Exit


@app.callback()
def maskmill(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Turn a bucket of images and a list of class names into masks and labels."""
    _escape_what_the_terminal_lacks()


def _escape_what_the_terminal_lacks() -> None:
    # Show "\\u732b" on a terminal or pipe that lacks the letter; by default Python would end the command with an error.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    app(prog_name="maskmill")
