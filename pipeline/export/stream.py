"""Streams the labelled images of a run one after the other, with their files where images are exported."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from PIL import Image

from maskmill.pipeline.decoding.decode import Decoding, ImageHeader, decode_for
from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.export.left_out import LeftOut
from maskmill.pipeline.export.names import Namer, SourceNames
from maskmill.pipeline.export.target import LabelledImage
from maskmill.pipeline.results.reader import Results
from maskmill.pipeline.sources.files import Fetched
from maskmill.pipeline.sources.finder import FORBIDDEN, UNREACHABLE

MOST_SILENT_SHARDS = 3
"""The export ends after so many shards without a readable image, instead of waiting for the store at every shard."""
READABLE_SUFFIXES = frozenset({".bmp", ".gif", ".jpg", ".png", ".tif", ".webp"})
"""The kinds of image files that readers of exports usually know; HEIC, AVIF and JPEG XL are not among them."""
_JPEG_QUALITY = 95
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}


class ExportError(Exception):
    """The images of a run cannot be read, for a reason that concerns their store."""


class ImageStream:
    """Yields the labelled images of a run in order, and counts the images and those that got another name.

    suffixes: the kinds of image files that are exported as they are. by_stem: see Format. left_out: collects the
    images that cannot be read.
    """

    def __init__(
        self,
        results: Results,
        *,
        with_images: bool,
        suffixes: frozenset[str],
        by_stem: bool,
        left_out: LeftOut,
        on_shard: Callable[[int, int], None],
    ) -> None:
        self.images = 0
        self._results = results
        self._finder = results.finder() if with_images else None
        self._suffixes = suffixes
        self._left_out = left_out
        self._on_shard = on_shard
        self._namer = Namer()
        self._source_names = SourceNames(by_stem=by_stem)
        self._silent_shards = 0

    @property
    def renamed(self) -> int:
        """How many images got another name because an earlier image has their name."""
        return self._namer.renamed if self._finder is not None else self._source_names.renamed

    def __iter__(self) -> Iterator[LabelledImage]:
        shards = len(self._results.shard_ids)
        for done, shard_id in enumerate(self._results.shard_ids):
            self._on_shard(done, shards)
            for row, file in self._rows(shard_id):
                self.images += 1
                stem = self._namer.stem(row)
                if file is None:
                    name = self._source_names.name(row)
                    yield LabelledImage(row=row, number=self.images, stem=stem, file_name=name)
                else:
                    data, suffix = file
                    yield LabelledImage(row=row, number=self.images, stem=stem, file_name=stem + suffix, data=data)
        self._on_shard(shards, shards)

    def _rows(self, shard_id: str) -> Iterator[tuple[dict[str, Any], tuple[bytes, str] | None]]:
        """Yield every row of a shard with its image file and the ending of that file."""
        if self._finder is None:
            yield from ((row, None) for row in self._results.rows(shard_id))
            return
        uris = {row["row"]: row["uri"] for row in self._results.rows(shard_id, ("row", "uri"))}
        silent, any_read = 0, False
        for row, (_, fetched) in zip(self._results.rows(shard_id), self._finder.read(uris), strict=True):
            try:
                file = self._file(fetched, row)
            except BadImageError as error:
                self._left_out.add(row, error)
                silent += error.error_class in (FORBIDDEN, UNREACHABLE)
                continue
            any_read = True
            yield row, file
        self._count_silence(silent, any_read)

    def _count_silence(self, silent: int, any_read: bool) -> None:
        self._silent_shards = self._silent_shards + 1 if silent and not any_read else 0
        if self._silent_shards >= MOST_SILENT_SHARDS:
            uri, reason = self._left_out.examples[-1]
            raise ExportError(
                f"no image of {MOST_SILENT_SHARDS} shards one after the other can be read, such as {uri}: {reason}. "
                "Check the access to their store, or export without images (--no-images)"
            )

    def _file(self, fetched: Fetched, row: Mapping[str, Any]) -> tuple[bytes, str]:
        assert self._finder is not None
        data, header = self._finder.header(fetched, row)
        return exported_file(data, header, self._finder.how, self._suffixes)


def exported_file(
    data: bytes, header: ImageHeader, how: Decoding, suffixes: frozenset[str] = READABLE_SUFFIXES
) -> tuple[bytes, str]:
    """Return the image file and its ending; an image that EXIF rotates is decoded and encoded upright, as the labels.

    Many readers of these formats ignore EXIF and would show the labels over a rotated image. Files with endings that
    are not among ``suffixes`` are encoded as PNG. Raises BadImageError where an image to encode cannot be decoded.
    """
    suffix = _SUFFIXES.get(header.file_format, f".{header.file_format.lower()}")
    if header.is_upright and suffix in suffixes:
        return data, suffix
    picture = Image.fromarray(decode_for(data, None, how).pixels)
    sink = io.BytesIO()
    if suffix == ".jpg":
        picture.save(sink, "JPEG", quality=_JPEG_QUALITY)
        return sink.getvalue(), suffix
    picture.save(sink, "PNG")
    return sink.getvalue(), ".png"
