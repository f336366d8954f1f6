"""``maskmill train``: trains grouping, a small CLIP, the per-pixel baseline, or all of the bundled model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.storage.files import parse_storage_options

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Train on images with label maps: grouping (ZegFormer), clip, or the per-pixel baseline.",
)

Data = Annotated[str, typer.Option(help="Images with label maps: anything `maskmill label` reads.")]
Classes = Annotated[str, typer.Option(help="Class file with seen flags (classes.json of `maskmill shapes`).")]
Out = Annotated[Path, typer.Option(help="Folder for checkpoints, metrics.jsonl and weights; give it again to resume.")]
Config = Annotated[str, typer.Option(metavar="NAME|FILE", help="A named configuration or a YAML file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Wins over --config, as in loop.steps=100."),
]
Validation = Annotated[str | None, typer.Option(help="Held-out images with label maps, measured at the end.")]
Cache = Annotated[Path | None, typer.Option(help="Where the data is copied to, best a local disk; default: OUT/cache.")]
WorkerCount = Annotated[int, typer.Option(min=0, help="Workers of Ray Train; 0: in this process, without Ray.")]
WorkerCpus = Annotated[float, typer.Option(min=0, help="CPUs of each worker.")]
WorkerGpus = Annotated[float, typer.Option(min=0, help="GPUs of each worker.")]
Address = Annotated[str | None, typer.Option(help="A running Ray cluster; default: a local Ray.")]
StorageOption = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="Option of the file system; may be repeated.")
]


def _train(
    kind: str,
    config: str,
    settings: list[str] | None,
    request: dict[str, Any],
    workers: dict[str, Any],
) -> None:
    """Check the settings and the folder, train, and print the last metrics."""
    # Import late, because torch takes seconds to import and `--help` does not need it.
    from maskmill.pipeline.training.place import claim_training
    from maskmill.pipeline.training.recipes import load_config
    from maskmill.pipeline.training.train import CONFIGS, TrainRequest

    resolved = load_config(kind, config, CONFIGS[kind], settings or [])
    request["storage_options"] = parse_storage_options(request["storage_options"] or [])
    train_request = TrainRequest(kind=kind, config=resolved.model_dump(mode="json"), **request)
    claim_training(train_request)
    typer.echo(json.dumps(_run(train_request, workers)))


def _run(request: Any, workers: dict[str, Any]) -> dict[str, float]:
    if workers["count"] == 0:
        import torch

        from maskmill.pipeline.training.train import run_training

        return run_training(request, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        from maskmill.pipeline.training.launch import Workers, train_on_ray
    except ImportError as error:
        raise UsageError(f"--workers needs Ray Train (pip install 'maskmill[train]'): {error}") from error
    return train_on_ray(request, Workers(**workers))


@app.command()
def grouping(
    data: Data,
    classes: Classes,
    out: Out,
    config: Config = "bundled",
    settings: Settings = None,
    cache: Cache = None,
    workers: WorkerCount = 1,
    cpus_per_worker: WorkerCpus = 1.0,
    gpus_per_worker: WorkerGpus = 0.0,
    address: Address = None,
    storage_option: StorageOption = None,
) -> None:
    """Train class-agnostic grouping on seen classes. Named configurations: bundled, zegformer-coco, zegformer-voc."""
    _train(
        "grouping",
        config,
        settings,
        {"data": data, "classes": classes, "out": str(out), "cache": _text(cache), "storage_options": storage_option},
        {"count": workers, "cpus": cpus_per_worker, "gpus": gpus_per_worker, "address": address},
    )


@app.command()
def clip(
    data: Data,
    classes: Classes,
    out: Out,
    config: Config = "bundled",
    settings: Settings = None,
    validation: Validation = None,
    cache: Cache = None,
    workers: WorkerCount = 1,
    cpus_per_worker: WorkerCpus = 1.0,
    gpus_per_worker: WorkerGpus = 0.0,
    address: Address = None,
    storage_option: StorageOption = None,
) -> None:
    """Train a small CLIP on regions of all classes. Named configurations: bundled, bundled-predicted."""
    _train(
        "clip",
        config,
        settings,
        {
            "data": data,
            "classes": classes,
            "out": str(out),
            "validation": validation,
            "cache": _text(cache),
            "storage_options": storage_option,
        },
        {"count": workers, "cpus": cpus_per_worker, "gpus": gpus_per_worker, "address": address},
    )


@app.command()
def baseline(
    data: Data,
    classes: Classes,
    out: Out,
    config: Config = "bundled",
    settings: Settings = None,
    cache: Cache = None,
    workers: WorkerCount = 1,
    cpus_per_worker: WorkerCpus = 1.0,
    gpus_per_worker: WorkerGpus = 0.0,
    address: Address = None,
    storage_option: StorageOption = None,
) -> None:
    """Train the per-pixel baseline on the seen classes. Named configurations: bundled, spnet-fpn."""
    _train(
        "baseline",
        config,
        settings,
        {"data": data, "classes": classes, "out": str(out), "cache": _text(cache), "storage_options": storage_option},
        {"count": workers, "cpus": cpus_per_worker, "gpus": gpus_per_worker, "address": address},
    )


@app.command()
def bundled(
    out: Annotated[Path, typer.Option(help="Folder for data, checkpoints and, in OUT/bundled, the weights.")] = Path(
        "bundled-training"
    ),
    images: Annotated[int, typer.Option(min=1, help="Training images drawn for each of CLIP and grouping.")] = 10_000,
) -> None:
    """Draw the data and train the bundled model, in this process; the same command again resumes."""
    from maskmill.pipeline.training.bundled import train_bundled

    directory = train_bundled(out, images)
    typer.echo(f"weights in {directory}; to ship them, copy its files to model/bundled")


@app.command()
def study(
    out: Annotated[Path, typer.Option(help="Folder of `train bundled`; what it lacks is trained.")] = Path(
        "bundled-training"
    ),
    images: Annotated[int, typer.Option(min=1, help="Training images, as in `train bundled`.")] = 10_000,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds of grouping and of the baseline.")] = 3,
    test_images: Annotated[int, typer.Option(min=1, help="Held-out images the figures are measured on.")] = 1000,
) -> None:
    """Compare per-pixel, decoupled and decoupled with image branch; writes OUT/study.md and study.json."""
    from maskmill.pipeline.training.study import StudySettings, run_study

    settings = StudySettings(seeds=tuple(range(1, seeds + 1)), images=images, test_images=test_images)
    typer.echo(run_study(out, settings).read_text(encoding="utf-8"))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
