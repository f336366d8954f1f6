"""Parses RLE columns of tables, which hold a list of texts per image, with errors that name the image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from maskmill.pipeline.evaluation.overlaps import LIMIT
from maskmill.pipeline.evaluation.protocol import EvaluationError
from maskmill.pipeline.limits import MAX_PIXELS
from maskmill.pipeline.masks.rle import SegmentRuns, parse_runs


def parse_column(
    rles: pa.ListArray, counts: np.ndarray, pixels: np.ndarray, name_of: Callable[[int], str]
) -> SegmentRuns:
    """Parse a list<string> column of compressed counts.

    counts: (images,) how many segments each image should have. pixels: (images,) height x width. name_of: returns the
    name of an image for errors. Raises EvaluationError for damaged RLEs and for images of more than MAX_PIXELS.
    """
    if pixels.size and pixels.max() > MAX_PIXELS:
        image = int(pixels.argmax())
        raise EvaluationError(f"{name_of(image)} has {pixels[image]} pixels; at most {MAX_PIXELS} are read")
    texts = rles.flatten().cast(pa.large_string())
    lengths = rles.value_lengths().fill_null(0).to_numpy()
    if not np.array_equal(lengths, counts):
        image = int(np.flatnonzero(lengths != counts)[0])
        raise EvaluationError(f"{name_of(image)} has {lengths[image]} RLEs for {counts[image]} segments")
    _, ends, data = texts.buffers()
    offsets = (
        np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1] if len(texts) else np.zeros(1, int)
    )
    text = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]] if len(texts) else np.zeros(0, np.uint8)
    try:
        return parse_runs(text, offsets[1:] - offsets[0], counts, pixels)
    except ValueError as error:
        if len(rles) > 1:  # find the damaged image
            for image in range(len(rles)):
                alone = slice(image, image + 1)
                parse_column(rles[alone], counts[alone], pixels[alone], lambda _, image=image: name_of(image))  # type: ignore[misc]
        raise EvaluationError(f"{name_of(0)}: {error}") from error


def paint(runs: SegmentRuns, image: int, pixels: int, segments: int, name: str) -> np.ndarray:
    """Paint one image with :meth:`SegmentRuns.paint`; pixels without a segment get the value ``segments``.

    Raises EvaluationError, naming the image, for overlapping or too many segments.
    """
    if segments >= LIMIT - 1:
        raise EvaluationError(f"{name} has {segments} segments; at most {LIMIT - 2} are read")
    try:
        return runs.paint(image, pixels, segments)
    except ValueError as error:
        raise EvaluationError(f"{name}: {error}") from error
