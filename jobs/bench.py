"""``maskmill bench``: measures on this machine where the time goes; prints a table, and writes JSON if asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from maskmill.model.choices import Dtype
from maskmill.model.naming.settings import Region, SinglePassRegion
from maskmill.pipeline.errors import UsageError

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Measure where the time goes: the model, the photo presets, the whole job, reading and decoding, its growth.",
)

Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write everything measured to this file.")]
Seed = Annotated[int, typer.Option(help="Seed of weights and images.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of the model.")]
StorageOption = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="Option of the file system; may be repeated.")
]
SUBJECTS = ("bundled", "real")
PRECISIONS = tuple(dtype for dtype in get_args(Dtype) if dtype != "auto")


@app.command()
def model(
    subject: Annotated[
        str,
        typer.Option(
            metavar="bundled|real", help="real: R-50, ViT-B/16, 640 pixels, 171 classes, random weights, 30 masks."
        ),
    ] = "bundled",
    region: Annotated[list[str] | None, typer.Option(help="What to measure; may be repeated.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Precisions to measure; may be repeated.")] = None,
    as_released: Annotated[
        bool,
        typer.Option(
            "--as-released",
            help="Measure the release's way first: all queries encoded, float32, full maps.",
        ),
    ] = False,
    min_objectness: Annotated[float | None, typer.Option(help="Also skip queries with a lower objectness.")] = None,
    min_visible: Annotated[int | None, typer.Option(min=1, help="Also skip queries that win fewer pixels.")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Measure each of these compiled, too.")] = False,
    attend_side: Annotated[int | None, typer.Option(help="Short side of the single pass's image.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Different images in each pass.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Passes; the fastest counts.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per call of the model.")] = 8,
    threads: Threads = 1,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Seconds per image and part of the bare model: backbone, decoder, regions, CLIP, fusion, map."""
    regions, dtypes = region or ["cropmask"], dtype or ["float32"]
    _require("--subject", [subject], SUBJECTS)
    _require("--region", regions, get_args(Region))
    _require("--dtype", dtypes, PRECISIONS)
    from maskmill.pipeline.bench.model import AS_RELEASED, ModelBench, Variant, measure_model, model_rows

    variants = [Variant(region=AS_RELEASED)] if as_released else []
    for name in regions:
        side = attend_side if name in get_args(SinglePassRegion) else None
        for precision in dtypes:
            exact = Variant(region=name, dtype=precision, attend_side=side)
            variants.append(exact)
            if min_objectness is not None:
                variants.append(replace(exact, min_objectness=min_objectness))
            if min_visible is not None:
                variants.append(replace(exact, min_visible=min_visible))
    if compiled:
        ours = [variant for variant in variants if variant.region != AS_RELEASED]
        variants += [replace(variant, compiled=True) for variant in ours]
    result = measure_model(
        ModelBench(
            subject="real" if subject == "real" else "bundled",
            variants=variants,
            images=images,
            repeats=repeats,
            threads=threads,
            batch_size=batch_size,
            seed=seed,
        )
    )
    _show(result, model_rows(result), json_file)


@app.command()
def photo(
    photograph: Annotated[str, typer.Argument(metavar="PHOTOGRAPH", help="An image file of this machine.")],
    preset: Annotated[
        list[str] | None, typer.Option(help="What to measure; may be repeated. Default: photo-small.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Precision: float32, bfloat16 or float16.")] = "float32",
    repeats: Annotated[int, typer.Option(min=1, help="Passes; the fastest counts.")] = 2,
    threads: Threads = 1,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """The photo presets at full size with random weights, so without a download: CPU seconds by part, peak memory."""
    from maskmill.pipeline.bench.photo import PhotoBench, measure_photo, photo_rows
    from maskmill.pipeline.bench.random_weights import SIZED

    presets = preset or ["photo-small"]
    _require("--preset", presets, SIZED)
    _require("--dtype", [dtype], PRECISIONS)
    bench = PhotoBench(
        photograph=photograph, presets=presets, dtype=cast(Dtype, dtype), repeats=repeats, threads=threads, seed=seed
    )
    result = measure_photo(bench)
    _show(result, photo_rows(result), json_file)


@app.command()
def io(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Images, as for `maskmill label`.")],
    preset: Annotated[str, typer.Option(help="The model whose input size images are resized to.")] = "bundled",
    weights: Annotated[str | None, typer.Option(help="Its weights, where the preset has none.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most about this many images.")] = 2000,
    storage_option: StorageOption = None,
    json_file: Json = None,
) -> None:
    """Reading and decoding alone on one core, and the bytes per image that stages hand over."""
    from maskmill.model import Vocabulary
    from maskmill.model.spec import ModelSpec
    from maskmill.pipeline.bench.io import IoBench, io_rows, measure_io
    from maskmill.pipeline.shapes import CLASSES
    from maskmill.pipeline.storage.files import parse_storage_options

    try:
        spec = ModelSpec(preset=preset, weights=weights)
    except ValueError as error:
        raise UsageError(str(error)) from error
    bench = IoBench(input=source, spec=spec, limit=limit, storage_options=parse_storage_options(storage_option or []))
    result = measure_io(bench, Vocabulary([entry.name for entry in CLASSES]))
    _show(result, io_rows(result), json_file)


Images = Annotated[int, typer.Option(min=100, help="How many drawn images the job labels.")]
Directory = Annotated[
    Path, typer.Option("--directory", help="Where images are drawn (once) and outputs lie for a while.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Settings of `maskmill label`; may be repeated.")
]


@app.command()
def pipeline(
    images: Images = 2000,
    workers: Annotated[int, typer.Option(min=1, help="Actors, each with a core.")] = 1,
    directory: Directory = Path("bench"),
    settings: Settings = None,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """The whole job against the bare model on the same cores: efficiency, CPU seconds by stage, memory, queues."""
    from maskmill.pipeline.bench.job import JobBench, growth_rows, job_rows, measure_job, queue_rows

    directory.mkdir(parents=True, exist_ok=True)
    bench = JobBench(images=images, workers=workers, seed=seed, settings=_label_settings(settings))
    result = {"bench": "pipeline", **measure_job(bench, directory)}
    _show(result, job_rows([result]), json_file, queue_rows(result), growth_rows(result))


@app.command()
def scale(
    workers: Annotated[list[int] | None, typer.Option(min=1, help="May be repeated; default 1 and 2.")] = None,
    images: Images = 2000,
    also_images: Annotated[list[int] | None, typer.Option(min=100, help="Also so many, with most workers.")] = None,
    directory: Directory = Path("bench"),
    settings: Settings = None,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """The job with 1, 2, ... workers, and its cost per image and memory as the data grows."""
    from maskmill.pipeline.bench.job import JobBench, growth_rows, job_rows, measure_scale

    directory.mkdir(parents=True, exist_ok=True)
    bench = JobBench(images=images, workers=1, seed=seed, settings=_label_settings(settings))
    result = measure_scale(bench, workers or [1, 2], also_images or [], directory)
    largest = max(result["runs"], key=lambda run: run["settings"]["images"])
    _show(result, job_rows(result["runs"]), json_file, growth_rows(largest))


def _label_settings(settings: list[str] | None) -> dict[str, Any]:
    """Return the settings given as KEY=VALUE, parsed and checked as for ``maskmill label``. Raises UsageError."""
    from maskmill.jobs.options import resolve
    from maskmill.pipeline.config import LabelConfig

    drawn = {"input": "drawn", "output": "for a while", "classes": "of the drawings"}
    config = resolve(LabelConfig, config_file=None, settings=settings or [], flags=drawn)
    return config.model_dump(include=config.model_fields_set - drawn.keys())


def _require(flag: str, values: list[str], choices: tuple[str, ...]) -> None:
    for value in values:
        if value not in choices:
            raise UsageError(f"{flag} {value!r}: choose from {', '.join(choices)}")


def _show(
    result: dict[str, Any], rows: list[dict[str, Any]], json_file: Path | None, *more: list[dict[str, Any]]
) -> None:
    from maskmill.pipeline.bench.result import environment_line, table_lines

    for table in (rows, *more):
        typer.echo("\n".join([*table_lines(table), ""]))
    typer.echo(environment_line(result["environment"]))
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=1) + "\n")
