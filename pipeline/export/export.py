"""Exports a run: streams its labels, with the images where the format wants them, through one of the formats."""

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
    """One format. with_images: whether images are exported unless told otherwise.

    image_folder: where they go, None if into the format's own files. images_per_file: None for a single file.
    image_suffixes: kinds of image files its readers take; others are stored as PNG. by_stem: whether its
    readers take two images whose names differ in their ending only for one.
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
    """What can be told. images, images_per_file: None for what the format does by default."""

    file_format: str
    images: bool | None = None
    images_per_file: int | None = None
    overwrite: bool = False
    storage_options: StorageOptions = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult:
    """What came of an export.

    images: how many were exported. left_out: how many were not, because their image cannot be had; the destination's
    left_out.csv has them all, examples a few as (uri, reason). renamed: how many got another name than their id gives,
    because an earlier image has that.
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
    """Export all finished shards. on_shard: called with shards done and in all.

    Images that are to be exported and cannot be read are left out, with their labels, and counted. Raises UsageError
    where there is no run, the format is unknown or the destination holds something, and ExportError where the store
    of the images answers for shard after shard with errors only.
    """
    if settings.file_format not in FORMATS:
        raise UsageError(f"unknown format {settings.file_format!r}; choose from: {', '.join(FORMATS)}")
    file_format = FORMATS[settings.file_format]
    if settings.images_per_file is not None and not file_format.is_split:
        splittable = ", ".join(name for name, one in FORMATS.items() if one.is_split)
        raise UsageError(f"images-per-file does not apply to {settings.file_format!r}, only to: {splittable}")
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


def _with_files(images: Iterator[LabelledImage], target: Target, folder: str) -> Iterator[LabelledImage]:
    """Write the images that pass into a folder, and let go of their bytes."""
    for image in images:
        if image.data is not None:
            target.write(f"{folder}/{image.file_name}", image.data)
        yield image
