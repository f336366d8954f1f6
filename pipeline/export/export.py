"""Exports a run: streams its labels, and the images where they are exported, through one of the formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.export.coco import export_coco, export_panoptic, export_results
from maskmill.pipeline.export.destination import claim_destination
from maskmill.pipeline.export.fiftyone import export_fiftyone
from maskmill.pipeline.export.hugging_face import export_hugging_face
from maskmill.pipeline.export.label_maps import export_png
from maskmill.pipeline.export.left_out import LeftOut
from maskmill.pipeline.export.stream import READABLE_SUFFIXES, ImageStream
from maskmill.pipeline.export.target import LabelledImage, Target
from maskmill.pipeline.export.yolo import IMAGE_SUFFIXES as YOLO_SUFFIXES
from maskmill.pipeline.export.yolo import export_yolo
from maskmill.pipeline.results.reader import open_results
from maskmill.pipeline.storage.files import StorageOptions


@dataclass(frozen=True, slots=True)
class Format:
    """One format. with_images: whether images are exported by default.

    image_folder: where images go, None if they are part of the format's files. images_per_file: None for a single
    file. is_split: whether the labels can be written in several files. image_suffixes: the kinds of image files that
    its readers take; others are stored as PNG. by_stem: whether its readers cannot distinguish two images whose names
    differ in their ending only.
    """

    export: Callable[[Target, Iterator[LabelledImage]], None]
    summary: str
    with_images: bool = False
    image_folder: str | None = "images"
    images_per_file: int | None = None
    is_split: bool = False
    image_suffixes: frozenset[str] = READABLE_SUFFIXES
    by_stem: bool = False


FORMATS: Mapping[str, Format] = {
    "coco": Format(export_coco, "COCO instances or stuff: JSON with RLE masks", is_split=True),
    "panoptic": Format(export_panoptic, "COCO panoptic: PNG of segment ids and JSON", is_split=True),
    "png": Format(export_png, "label maps: PNG of class ids with a palette"),
    "coco-stuff": Format(export_results, "results of semantic segmentation: JSON of RLEs", is_split=True, by_stem=True),
    "fiftyone": Format(export_fiftyone, "FiftyOneDataset folder", with_images=True, image_folder="data"),
    "yolo": Format(export_yolo, "YOLO segmentation polygons", with_images=True, image_suffixes=YOLO_SUFFIXES),
    "hf": Format(
        export_hugging_face,
        "Parquet for Hugging Face datasets",
        with_images=True,
        image_folder=None,
        images_per_file=1000,
        is_split=True,
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSettings:
    """The settings of an export. images, images_per_file: None for the format's default."""

    file_format: str
    images: bool | None = None
    images_per_file: int | None = None
    overwrite: bool = False
    storage_options: StorageOptions = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult:
    """The outcome of an export.

    images: how many were exported. left_out: how many were not, because their image cannot be read; left_out.csv in the
    destination lists them all, ``examples`` a few as (uri, reason). renamed: how many got another name than their id
    gives, because an earlier image has that name.
    """

    images: int
    left_out: int
    examples: tuple[tuple[str, str], ...]
    renamed: int


def export_run(
    output_uri: str,
    destination: str,
    settings: ExportSettings,
    on_shard: Callable[[int, int], None] = lambda done, shards: None,
) -> ExportResult:
    """Export all finished shards. on_shard: called with the number of shards done and of all shards.

    Images that are to be exported and cannot be read are left out, with their labels, and counted. Raises UsageError
    where there is no run, the format is unknown or the destination is not empty, and ExportError where no image of
    several shards in sequence can be read.
    """
    file_format = _format_of(settings)
    results = open_results(output_uri, settings.storage_options)
    per_file = settings.images_per_file or file_format.images_per_file
    with_images = file_format.with_images if settings.images is None else settings.images
    protected = claim_destination(results, destination, settings.overwrite, settings.storage_options)
    with (
        Target(results, destination, per_file, settings.storage_options, protected) as target,
        LeftOut() as left_out,
    ):
        stream = ImageStream(
            results,
            with_images=with_images,
            suffixes=file_format.image_suffixes,
            by_stem=file_format.by_stem,
            left_out=left_out,
            on_shard=on_shard,
        )
        images = iter(stream)
        if file_format.image_folder is not None:
            images = _with_files(images, target, file_format.image_folder)
        file_format.export(target, images)
        left_out.write(target)
    return ExportResult(
        images=stream.images, left_out=left_out.count, examples=tuple(left_out.examples), renamed=stream.renamed
    )


def _format_of(settings: ExportSettings) -> Format:
    """Return the chosen format. Raises UsageError for an unknown one, and for settings that it does not take."""
    if settings.file_format not in FORMATS:
        raise UsageError(f"unknown format {settings.file_format!r}; choose from: {', '.join(FORMATS)}")
    file_format = FORMATS[settings.file_format]
    if settings.images_per_file is not None and not file_format.is_split:
        splittable = ", ".join(name for name, one in FORMATS.items() if one.is_split)
        raise UsageError(f"images-per-file does not apply to {settings.file_format!r}, only to: {splittable}")
    return file_format


def _with_files(images: Iterator[LabelledImage], target: Target, folder: str) -> Iterator[LabelledImage]:
    """Write each image that has data into a folder, and pass it on."""
    for image in images:
        if image.data is not None:
            target.write(f"{folder}/{image.file_name}", image.data)
        yield image
