"""Training data on local disk: the encoded images and label maps of any input, in one file, by position.

Tars, Parquet files and buckets are read in order, but training needs any image at any step. So the encoded bytes are
copied once to a local folder, which all workers of a machine share, and are decoded when they are needed.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.pipeline.decoding.decode import decode_image, read_header
from maskmill.pipeline.errors import BadImageError, UsageError
from maskmill.pipeline.evaluation.label_maps import decode_label_map, label_map_size
from maskmill.pipeline.sources import Shard, list_shards, read_shard

_BYTES_FILE = "records.bin"
_INDEX_FILE = "records.json"
_EXAMPLES = 3


class RecordStore:
    """Images with label maps, readable at any position from any process."""

    def __init__(self, directory: Path) -> None:
        """Open a folder that ``copy_records`` has written."""
        index = json.loads((directory / _INDEX_FILE).read_text())
        self.fingerprint: str = index["fingerprint"]
        self._image_ids: list[str] = index["image_ids"]
        self._bounds = np.asarray(index["bounds"], dtype=np.int64)
        with open(directory / _BYTES_FILE, "rb") as stream:
            self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._image_ids)

    def load(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the image (H, W, 3) uint8 RGB and its label map (H, W) int64.

        Raises UsageError where the two have different sizes.
        """
        start, middle, _ = self._bounds[position]
        image = decode_image(self._bytes[start:middle])
        label = self.label(position)
        if label.shape != image.shape[:2]:
            raise UsageError(
                f"the label map of {self._image_ids[position]!r} is {label.shape}, its image {image.shape[:2]}: "
                "they must have one size, and a label map one channel"
            )
        return image, label

    def label(self, position: int) -> np.ndarray:
        """Return the label map alone, (H, W) int64."""
        _, middle, end = self._bounds[position]
        name = f"the label map of {self._image_ids[position]!r}"
        return decode_label_map(self._bytes[middle:end], name).astype(np.int64)


@dataclass(slots=True)
class _Misfits:
    """Finds label maps of another size than their image before training starts."""

    count: int = 0
    swapped: int = 0
    examples: list[str] = field(default_factory=list)

    def look_at(self, uri: str, image: bytes, label: bytes) -> None:
        """Compare the sizes in the headers. Raises UsageError where a header cannot be read."""
        try:
            header = read_header(image)
        except BadImageError as error:
            raise UsageError(f"{uri}: {error.message}") from error
        label_size, size = label_map_size(label, f"the label map of {uri}"), (header.height, header.width)
        if label_size == size:
            return
        self.count += 1
        self.swapped += label_size == size[::-1]
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{uri} (label map {label_size[1]}x{label_size[0]}, image {size[1]}x{size[0]})")

    def refuse(self, images: int) -> None:
        """Raise UsageError if any label map had another size, naming a few."""
        if not self.count:
            return
        swapped = (
            f"; {self.swapped} have swapped sides, as where EXIF turns a photograph whose label map was not turned"
            if self.swapped
            else ""
        )
        raise UsageError(
            f"{self.count} of {images} label maps have another size than their image, such as "
            f"{', '.join(self.examples)}{swapped}. Bring them to the size of the upright image"
        )


def open_records(data: str, cache: Path, storage_options: Mapping[str, Any] | None = None) -> RecordStore:
    """Return the records of ``data`` (any input of ``maskmill label`` with label maps), copied under ``cache`` if new.

    The copy is named after the shards with their sizes and dates, so changed data is copied again. Raises UsageError
    when the input does not exist, an image has no label map, or a label map has another size than its image.
    """
    shards = list_shards(data, storage_options=storage_options)
    fingerprint = _fingerprint(shards)
    directory = cache / f"records-{fingerprint}"
    if not (directory / _INDEX_FILE).exists():
        copy_records(shards, directory, fingerprint, storage_options)
    return RecordStore(directory)


def _fingerprint(shards: list[Shard]) -> str:
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(repr((shard.shard_id, shard.size_bytes, shard.version)).encode())
    return digest.hexdigest()[:16]


def copy_records(
    shards: list[Shard], directory: Path, fingerprint: str, storage_options: Mapping[str, Any] | None
) -> None:
    """Write the records of ``shards`` to ``directory``; the index is written last, so a killed copy is done again."""
    directory.mkdir(parents=True, exist_ok=True)
    image_ids, bounds, offset = [], [], 0
    misfits = _Misfits()
    handle, temporary = tempfile.mkstemp(dir=directory)
    with os.fdopen(handle, "wb") as stream:
        for shard in shards:
            for record in read_shard(shard, storage_options, with_segmentation=True):
                if record.error is not None:
                    raise UsageError(f"{record.uri}: {record.error.message}")
                if record.data is None or record.segmentation is None:
                    raise UsageError(f"{record.uri} has no label map; training needs one for every image")
                misfits.look_at(record.uri, record.data, record.segmentation)
                stream.write(record.data)
                stream.write(record.segmentation)
                middle = offset + len(record.data)
                end = middle + len(record.segmentation)
                image_ids.append(record.image_id)
                bounds.append((offset, middle, end))
                offset = end
    misfits.refuse(len(image_ids))
    os.replace(temporary, directory / _BYTES_FILE)
    index = {"fingerprint": fingerprint, "image_ids": image_ids, "bounds": bounds}
    handle, temporary = tempfile.mkstemp(dir=directory)
    with os.fdopen(handle, "w") as text:
        json.dump(index, text)
    os.replace(temporary, directory / _INDEX_FILE)
