"""Writes drawings with their ground truth as WebDataset tars, Parquet files or a folder, always with the same bytes."""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.output.ownership import CLAIM, claim, is_claimed, some_names
from maskmill.pipeline.shapes.draw import draw
from maskmill.pipeline.shapes.world import ALLOWED, classes_document
from maskmill.pipeline.storage.files import (
    StorageOptions,
    is_local,
    open_atomic,
    open_filesystem,
    public_uri,
    write_atomic,
)
from maskmill.pipeline.storage.writable import check_writable

JPEG_QUALITY = 95
PARQUET_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("segmentation", pa.binary(), nullable=False),
    ]
)
_ROW_GROUP_ROWS = 250
CLASSES_FILE, COMMAND = "classes.json", "shapes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One drawing as files: its key ("000123"), the JPEG, and the PNG label map of class ids (8-bit grey)."""

    key: str
    jpeg: bytes
    segmentation_png: bytes


def encode_sample(seed: int, index: int, allowed: str = "all") -> Sample:
    """Draw and encode image ``index`` of the world ``seed``."""
    image, label = draw(seed, index, allowed)
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(image).save(jpeg, "JPEG", quality=JPEG_QUALITY)
    Image.fromarray(label).save(png, "PNG")
    return Sample(key=f"{index:06d}", jpeg=jpeg.getvalue(), segmentation_png=png.getvalue())


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapesSettings:
    """What to write. Raises UsageError for values out of range.

    images: how many. seed: which world. file_format: "wds", "parquet" or "folder". shard_size: images per tar or
    Parquet file. allowed: classes that may occur.
    """

    images: int
    seed: int = 0
    file_format: str = "wds"
    shard_size: int = 1000
    allowed: str = "all"

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("seed", 0), ("shard_size", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.file_format not in _WRITERS:
            raise UsageError(f"unknown format {self.file_format!r}; choose from: {', '.join(_WRITERS)}")
        if self.allowed not in ALLOWED:
            raise UsageError(f"unknown classes-allowed {self.allowed!r}; choose from: {', '.join(ALLOWED)}")

    def shards(self) -> Iterator[range]:
        """Yield the image indices of each tar or Parquet file."""
        for start in range(0, self.images, self.shard_size):
            yield range(start, min(start + self.shard_size, self.images))

    def samples(self, indices: range) -> Iterator[Sample]:
        """Draw the given images one after the other."""
        return (encode_sample(self.seed, index, self.allowed) for index in indices)


def write_shapes(
    destination: str,
    settings: ShapesSettings,
    storage_options: StorageOptions | None = None,
    on_progress: Callable[[int], None] = lambda images: None,
) -> None:
    """Write the data set and its ``classes.json`` under ``destination``, any fsspec URI.

    on_progress: called with the number of images written so far. Raises UsageError where ``destination`` cannot be
    written to, where it holds files that this call would not write again, since they would be read as part of the data,
    or files of the same names that no call of this function has written.
    """
    fs, root = open_filesystem(destination, storage_options)
    root = root.rstrip("/")
    check_writable(destination, storage_options, what="the data set")
    _refuse_strangers(Output(destination, storage_options), settings)
    _WRITERS[settings.file_format](fs, root, settings, on_progress)
    document = json.dumps(classes_document(), indent=1) + "\n"
    write_atomic(fs, posixpath.join(root, CLASSES_FILE), document.encode())


def _shard_names(settings: ShapesSettings) -> Iterator[tuple[str, range]]:
    extension = {"wds": "tar", "parquet": "parquet"}[settings.file_format]
    for number, indices in enumerate(settings.shards()):
        yield f"{number:05d}.{extension}", indices


def _refuse_strangers(output: Output, settings: ShapesSettings) -> None:
    ours = {CLASSES_FILE, CLAIM}
    if settings.file_format == "folder":
        for index in range(settings.images):
            ours |= {f"{index:06d}.jpg", f"{index:06d}.seg.png"}
    else:
        ours |= {name for name, _ in _shard_names(settings)}
    present = set(output.all_names())
    strangers = sorted(present - ours)
    if strangers:
        raise UsageError(
            f"{public_uri(output.uri)} already holds {len(strangers)} other files ({some_names(strangers)}); choose an "
            "empty place"
        )
    # Data sets of earlier versions have no mark; they are recognised by classes.json, which is written last.
    if present and not is_claimed(output, COMMAND) and not _is_our_classes_file(output):
        raise UsageError(
            f"{public_uri(output.uri)} holds files of names that would be written ({some_names(sorted(present))}), and "
            "they are not known to be drawn ones; choose an empty place"
        )
    claim(output, COMMAND)


def _is_our_classes_file(output: Output) -> bool:
    try:
        return output.read_json(CLASSES_FILE) == json.loads(json.dumps(classes_document()))
    except ValueError:
        return False


def _write_tars(
    fs: fsspec.AbstractFileSystem, root: str, settings: ShapesSettings, on_progress: Callable[[int], None]
) -> None:
    for name, indices in _shard_names(settings):
        with (
            open_atomic(fs, posixpath.join(root, name)) as stream,
            tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for sample in settings.samples(indices):
                _add_member(archive, f"{sample.key}.jpg", sample.jpeg)
                _add_member(archive, f"{sample.key}.seg.png", sample.segmentation_png)
        on_progress(indices.stop)


def _add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    # A new TarInfo has a fixed time, owner and mode, so that the archive does not depend on this machine.
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _write_parquet(
    fs: fsspec.AbstractFileSystem, root: str, settings: ShapesSettings, on_progress: Callable[[int], None]
) -> None:
    for name, indices in _shard_names(settings):
        with open_atomic(fs, posixpath.join(root, name)) as stream:
            _write_parquet_file(stream, settings, indices)
        on_progress(indices.stop)


def _write_parquet_file(stream: IO[bytes], settings: ShapesSettings, indices: range) -> None:
    # Parquet does not compress these columns, since JPEG and PNG do not compress further.
    with pq.ParquetWriter(stream, PARQUET_SCHEMA, compression="none", use_dictionary=False) as writer:
        for start in range(indices.start, indices.stop, _ROW_GROUP_ROWS):
            samples = list(settings.samples(range(start, min(start + _ROW_GROUP_ROWS, indices.stop))))
            columns = [
                [sample.key for sample in samples],
                [sample.jpeg for sample in samples],
                [sample.segmentation_png for sample in samples],
            ]
            writer.write_table(pa.table(columns, schema=PARQUET_SCHEMA))


def _write_folder(
    fs: fsspec.AbstractFileSystem, root: str, settings: ShapesSettings, on_progress: Callable[[int], None]
) -> None:
    if is_local(fs):
        fs.makedirs(root, exist_ok=True)
    for indices in settings.shards():
        for sample in settings.samples(indices):
            # Do not synchronise each small file with the disk, since the same command can write them again.
            fs.pipe_file(posixpath.join(root, f"{sample.key}.jpg"), sample.jpeg)
            fs.pipe_file(posixpath.join(root, f"{sample.key}.seg.png"), sample.segmentation_png)
        on_progress(indices.stop)


_WRITERS = {"wds": _write_tars, "parquet": _write_parquet, "folder": _write_folder}
