"""``maskmill schedule``: writes Kubernetes manifests that run a job file, once or every night."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from maskmill.jobs.manifests import Images, Manifests, Schedule, rendered
from maskmill.jobs.options import resolve
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.storage.writable import check_writable

Kind = Literal["rayjob", "raycronjob", "cronjob"]
CRON_FIELDS = 5


def schedule(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="Settings of `maskmill label`, by the flags' names.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder for the manifests; it must not exist.")],
    kind: Annotated[
        str,
        typer.Option(metavar="|".join(get_args(Kind)), help="One run, KubeRay's schedule (alpha), or a CronJob."),
    ] = "raycronjob",
    cron: Annotated[str, typer.Option(metavar="'M H D M W'", help="When to run, in cron's five fields.")] = "0 2 * * *",
    time_zone: Annotated[str, typer.Option(help="Time zone of --cron, by its IANA name.")] = "Etc/UTC",
    cpu_image: Annotated[str, typer.Option(help="Image of head and CPU nodes (see Dockerfile).")] = "maskmill:cpu",
    cuda_image: Annotated[str, typer.Option(help="Image of GPU nodes (see Dockerfile).")] = "maskmill:cuda",
    name: Annotated[str, typer.Option(help="Name of the Kubernetes object.")] = "maskmill",
) -> None:
    """Write Kubernetes manifests for the job in JOB.yaml: a folder for `kubectl apply -k` or an overlay of yours.

    A scheduled job is incremental and logs in JSON, unless JOB.yaml says otherwise.
    """
    if kind not in get_args(Kind):
        raise UsageError(f"--kind: {kind!r} is not known. Choose from: {', '.join(get_args(Kind))}")
    if len(cron.split()) != CRON_FIELDS or not re.fullmatch(r"[\d*/,\- A-Za-z]+", cron):
        raise UsageError(f"--cron takes the five fields of cron, such as '0 2 * * *', not {cron!r}")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?", name):
        raise UsageError(f"--name: {name!r} is no name for Kubernetes: up to 47 of a-z, 0-9 and -, no - at the ends")
    if destination.exists():
        raise UsageError(f"{destination} exists already; choose another place")
    check_writable(str(destination), what="the folder")
    config = resolve(LabelConfig, config_file=job, settings=(), flags={})
    base = files("maskmill.jobs") / "k8s"
    found = Manifests({entry.name: entry.read_text() for entry in base.iterdir() if entry.name.endswith(".yaml")})
    written = rendered(
        found, job, config, kind, Schedule(cron=cron, time_zone=time_zone, name=name), Images(cpu_image, cuda_image)
    )
    destination.mkdir(parents=True)
    for file_name, content in written.items():
        (destination / file_name).write_bytes(content)
    typer.echo(f"{destination}: {', '.join(written)}; kubectl apply -k {destination}", err=True)
