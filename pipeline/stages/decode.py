"""The decode stage: encoded images become pixels, resized for the model. It needs no PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from maskmill.model.images.resize import output_size, resize
from maskmill.pipeline.decoding.decode import Decoding, decode_for, read_header
from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.stages.guard import run_guarded
from maskmill.pipeline.stages.quarantine import Run, no_quarantine
from maskmill.pipeline.stages.rows import DECODED, Row, transform

DECODED_TABLE_BYTES = 32 * 2**20
"""Bytes of pixels in one table; a task holds them about three times: as arrays, as rows and as a table."""
USUAL_ASPECT = 2
"""Long side by short side of nearly all photographs. The few that are longer make a table a little too large."""


class DecodeStage:
    """Takes encoded images, and yields RGB pixels resized for the model."""

    def __init__(self, how: Decoding, short_side: int | None, max_long_side: int, run: Run = no_quarantine) -> None:
        self.run = run
        self.how = how
        self.short_side = short_side
        self.max_long_side = max_long_side

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Turn a table ENCODED into tables DECODED of at most about DECODED_TABLE_BYTES."""
        for part in self._parts(batch):
            yield transform(part, DECODED, lambda rows: run_guarded(rows, self._decode, "decode"), self.run)

    def _parts(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Cut a batch into parts of one image or more, whose pixels take at most about DECODED_TABLE_BYTES."""
        start = size = 0
        for index in range(batch.num_rows):
            pixels = self._pixel_bytes(batch["data"][index])
            if index > start and size + pixels > DECODED_TABLE_BYTES:
                yield batch.slice(start, index - start)
                start, size = index, 0
            size += pixels
        yield batch.slice(start)

    def _pixel_bytes(self, data: pa.Scalar) -> int:
        """Return the most bytes of pixels that an image will usually take; 0 for rows without an image."""
        if not data.is_valid:
            return 0
        if self.short_side is not None:
            return 3 * self.short_side * max(self.short_side, min(self.max_long_side, USUAL_ASPECT * self.short_side))
        try:
            header = read_header(data.as_py(), max_pixels=self.how.max_pixels)
        except BadImageError:
            return 0
        return 3 * header.height * header.width

    def _decode(self, rows: Sequence[Row]) -> list[Row]:
        return [self._decode_one(row["data"]) for row in rows]

    def _decode_one(self, data: bytes) -> Row:
        decoded = decode_for(data, self._model_size, self.how)
        image = decoded.pixels
        height, width = self._model_size(decoded.height, decoded.width)
        if (height, width) != image.shape[:2]:
            image = resize(image, height, width)
        return {
            "width": decoded.width,
            "height": decoded.height,
            "pixel_width": image.shape[1],
            "pixel_height": image.shape[0],
            "pixels": np.ascontiguousarray(image).tobytes(),
        }

    def _model_size(self, height: int, width: int) -> tuple[int, int]:
        if self.short_side is None:
            return height, width
        return output_size(height, width, self.short_side, self.max_long_side)
