"""``maskmill submit``: runs a job file on a Ray cluster, shows the job's log, and exits with the job's code."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskmill.jobs.options import SET_HELP, resolve
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.uris import public_text

if TYPE_CHECKING:
    from maskmill.pipeline.cluster.submission import Cluster

EXIT_FAILED = 1
PROJECT = "jobs/main.py"
SECRET_SETTINGS = {"storage-option", "notify-url"}


def submit(
    job: Annotated[
        Path | None, typer.Argument(metavar="JOB.yaml", help="Settings of `maskmill label`, by the flags' names.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Job server, http://head:8265; default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, this machine."),
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
    working_dir: Annotated[
        Path, typer.Option(help="Folder to upload: the job file and what it names by relative paths lie in it.")
    ] = Path(),
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Files not to upload, besides those of .gitignore and a built-in list."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Stream the log and return the job's exit code, or only start it.")
    ] = True,
    attach: Annotated[str | None, typer.Option(metavar="JOB_ID", help="Follow a job that was started before.")] = None,
    cancel: Annotated[str | None, typer.Option(metavar="JOB_ID", help="Stop a job; what it committed stays.")] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Certificate authority of an https address; default: the system's.")
    ] = None,
) -> None:
    """Run `maskmill label` with the settings of JOB.yaml on a Ray cluster. Ctrl-C stops the job there.

    The exit code is the job's: see `maskmill label`. Ray's token is taken from where Ray looks for it.
    """
    if sum(given is not None for given in (job, attach, cancel)) != 1:
        raise UsageError("give one of JOB.yaml, --attach JOB_ID, --cancel JOB_ID")
    if ca_file is not None and not ca_file.is_file():
        raise UsageError(f"--ca-file: there is no file {ca_file}")
    entrypoint = None if job is None else entrypoint_of(job, settings or [], working_dir)

    from maskmill.pipeline.cluster.submission import EXCLUDES, Cluster, Submission, SubmitError

    try:
        cluster = Cluster(address, ca_file)
        if cancel is not None:
            cluster.stop(cancel)
            typer.echo(f"stopped {cancel}", err=True)
            return
        job_id = attach or ""
        if entrypoint is not None:
            excludes = (*EXCLUDES, *(exclude or ()))
            job_id = cluster.submit(Submission(entrypoint=entrypoint, working_dir=working_dir, excludes=excludes))
            typer.echo(f"submitted {job_id}", err=True)
            if not wait:
                typer.echo(job_id)
                return
        code = _follow(cluster, job_id)
    except SubmitError as error:
        typer.echo(f"error: {public_text(str(error))}", err=True)
        code = EXIT_FAILED
    raise typer.Exit(code)


def entrypoint_of(job: Path, settings: list[str], working_dir: Path) -> str:
    """Return the command for the cluster. Raises UsageError for what `label` refuses, before anything is sent."""
    keys = {setting.partition("=")[0].strip().replace("_", "-") for setting in settings}
    if keys & SECRET_SETTINGS:
        raise UsageError(
            "--set storage-option and notify-url would show in the cluster's list of jobs; use the nodes' own rights, "
            "or write them into the job file"
        )
    config = resolve(LabelConfig, config_file=job, settings=settings, flags={})
    if config.address is not None:
        raise UsageError(f"address in {job} is for `maskmill label`; the job joins the cluster it is submitted to")
    try:
        inside = job.resolve().relative_to(working_dir.resolve())
    except ValueError as error:
        raise UsageError(f"{job} lies outside of --working-dir {working_dir}, which is what is uploaded") from error
    # Use -P, or Python would look for modules in the upload first; that is wanted only if the upload is this project.
    safe = [] if (working_dir / PROJECT).is_file() else ["-P"]
    words = ["python", *safe, "-m", "maskmill.jobs.main", "label", "--config", inside.as_posix()]
    for setting in settings:
        words += ["--set", setting]
    # Use exec, or a shell would receive Ray's signals instead of the run.
    return f"exec {shlex.join(words)}"


def _follow(cluster: Cluster, job_id: str) -> int:
    from maskmill.pipeline.interruption import InterruptedRunError, signals_raised

    try:
        with signals_raised():
            return cluster.follow(job_id, _write)
    except InterruptedRunError as interruption:
        typer.echo(f"{interruption}; stopping {job_id}, what it committed stays", err=True)
        cluster.stop(job_id)
        return interruption.exit_code


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
