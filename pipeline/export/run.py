"""Exports a run: streams its labels, with the images where the format wants them, through one of the formats."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from PIL import Image

from pipeline.decode import FORMATS as IMAGE_FORMATS
from pipeline.decode import decode_image
from pipeline.errors import UsageError
from pipeline.export.coco import export_coco, export_panoptic, export_results
from pipeline.export.destination import claim_destination
from pipeline.export.fiftyone import export_fiftyone
from pipeline.export.hugging_face import export_hugging_face
from pipeline.export.label_maps import export_png
from pipeline.export.target import LabelledImage, Namer, Target
from pipeline.export.yolo import export_yolo
from pipeline.images import ImageFinder
from pipeline.results import Results, open_results
from pipeline.sources.shard import ReadLimits
from pipeline.storage import StorageOptions

_EXIF_ORIENTATION = 0x0112
_JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Format:
    """One format. with_images: whether images are exported unless told otherwise.

    image_folder: where they go, None if into the format's own files. images_per_file: None for a single file.
    """

    export: Callable[[Target, Iterator[LabelledImage]], None]
    summary: str
    with_images: bool = False
    image_folder: str | None = "images"
    images_per_file: int | None = None
    is_split: bool = False


FORMATS: Mapping[str, Format] = {
    "coco": Format(export_coco, "COCO instances or stuff: JSON with RLE masks", is_split=True),
    "panoptic": Format(export_panoptic, "COCO panoptic: PNG of segment ids and JSON", is_split=True),
    "png": Format(export_png, "label maps: PNG of class ids with a palette"),
    "coco-stuff": Format(export_results, "results of semantic segmentation: JSON of RLEs", is_split=True),
    "fiftyone": Format(export_fiftyone, "FiftyOneDataset folder", with_images=True, image_folder="data"),
    "yolo": Format(export_yolo, "YOLO segmentation polygons", with_images=True),
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


def export_run(
    output_uri: str,
    destination: str,
    settings: ExportSettings,
    on_shard: Callable[[int, int], None] = lambda done, shards: None,
) -> int:
    """Export all finished shards and return how many images there were. on_shard: called with shards done and in all.

    Raises UsageError where there is no run, the format is unknown, the destination holds something, or an image that is
    to be exported is no longer there.
    """
    if settings.file_format not in FORMATS:
        raise UsageError(f"unknown format {settings.file_format!r}; choose from: {', '.join(FORMATS)}")
    file_format = FORMATS[settings.file_format]
    if settings.images_per_file is not None and not file_format.is_split:
        splittable = ", ".join(name for name, one in FORMATS.items() if one.is_split)
        raise UsageError(f"images-per-file does not apply to {settings.file_format!r}, only to: {splittable}")
    results = open_results(output_uri, settings.storage_options)
    per_file = settings.images_per_file or file_format.images_per_file
    protected = claim_destination(results, destination, settings.overwrite, settings.storage_options)
    with Target(results, destination, per_file, settings.storage_options, protected) as target:
        with_images = file_format.with_images if settings.images is None else settings.images
        stream = _Stream(results, settings, with_images, on_shard)
        images = iter(stream)
        if file_format.image_folder is not None:
            images = _with_files(images, target, file_format.image_folder)
        file_format.export(target, images)
    return stream.images


def _with_files(images: Iterator[LabelledImage], target: Target, folder: str) -> Iterator[LabelledImage]:
    """Write the images that pass into a folder, and let go of their bytes."""
    for image in images:
        if image.data is not None:
            target.write(f"{folder}/{image.file_name}", image.data)
        yield image


class _Stream:
    """The labelled images of a run in order; counts those it has given."""

    def __init__(
        self, results: Results, settings: ExportSettings, with_images: bool, on_shard: Callable[[int, int], None]
    ) -> None:
        config = results.run["config"]
        limits = ReadLimits(max_image_bytes=config["max_image_bytes"])
        self.images = 0
        self._results = results
        self._finder = ImageFinder(settings.storage_options, config["image_column"], limits) if with_images else None
        self._on_shard = on_shard

    def __iter__(self) -> Iterator[LabelledImage]:
        namer = Namer()
        for done, shard_id in enumerate(self._results.shard_ids):
            self._on_shard(done, len(self._results.shard_ids))
            for row, data in self._rows(shard_id):
                self.images += 1
                stem = namer.stem(row)
                if data is None:
                    yield LabelledImage(row=row, number=self.images, stem=stem, file_name=source_name(row))
                else:
                    data, suffix = upright_file(data)
                    name = stem + suffix
                    yield LabelledImage(row=row, number=self.images, stem=stem, file_name=name, data=data)
        self._on_shard(len(self._results.shard_ids), len(self._results.shard_ids))

    def _rows(self, shard_id: str) -> Iterator[tuple[dict[str, Any], bytes | None]]:
        if self._finder is None:
            yield from ((row, None) for row in self._results.rows(shard_id))
            return
        uris = {row["row"]: row["uri"] for row in self._results.rows(shard_id, ("row", "uri"))}
        for row, (number, fetched) in zip(self._results.rows(shard_id), self._finder.read(uris), strict=True):
            if fetched.data is None or number != row["row"]:
                raise UsageError(
                    f"image {row['uri']} cannot be exported: {fetched.error}. Export without images (--no-images), or "
                    "bring it back"
                )
            yield row, fetched.data


def source_name(row: Mapping[str, Any]) -> str:
    """The name of an image in its source: its id with the extension that the URI shows, if it shows one."""
    suffix = PurePosixPath(row["uri"].rpartition("#")[2].partition("?")[0]).suffix
    return row["image_id"] + (suffix if suffix and "=" not in suffix else "")


def upright_file(data: bytes) -> tuple[bytes, str]:
    """The image file and its extension; stored anew where EXIF says that it is to be turned, as the labels are.

    Many readers of these formats ignore EXIF and would lay the labels over an image that lies on its side.
    """
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
        kind = str(image.format)
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    suffix = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}.get(kind, f".{kind.lower()}")
    if orientation in (0, 1):
        return data, suffix
    picture = Image.fromarray(decode_image(data))
    sink = io.BytesIO()
    if suffix == ".jpg":
        picture.save(sink, "JPEG", quality=_JPEG_QUALITY)
        return sink.getvalue(), suffix
    picture.save(sink, "PNG")
    return sink.getvalue(), ".png"
