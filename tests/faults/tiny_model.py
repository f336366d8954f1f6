"""A model that costs next to nothing and gives each image several segments, so that faults can be tried by the hundred.

It stands where the fused stage stands, with the same columns in and out, and runs under the same guard and quarantine.
What it finds depends on the pixels of an image alone: the label map is the brightness in four steps.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa

from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.stages.guard import run_guarded
from maskmill.pipeline.stages.quarantine import Run, no_quarantine
from maskmill.pipeline.stages.rows import CLASSIFIED, Row, transform

CLASSES = ("dark", "dim", "light", "bright")
SECONDS_PER_IMAGE = 0.002
"""Slept, not computed: the moment of a fault should often find an image inside the model."""


class NoModel:
    """What stands where ``maskmill.pipeline.stages.model.StageModel`` does: nothing to load, so that actors start at
    once."""

    def __init__(self, **parts: Any) -> None:
        pass


class TinyStage:
    """DECODED in, CLASSIFIED out; takes the arguments of ``maskmill.pipeline.stages.model.SegmentStage``."""

    def __init__(self, model: Any, threads: int, run: Run = no_quarantine) -> None:
        self.run = run

    def __call__(self, batch: pa.Table) -> pa.Table:
        return transform(batch, CLASSIFIED, self._guarded, self.run)

    def _guarded(self, rows: list[Row]) -> list[Row | BadImageError]:
        return run_guarded(rows, lambda some: [self.segment(row) for row in some], "segment")

    def segment(self, row: Row) -> Row:
        """One image's row; its pixels are (pixel_height, pixel_width, 3) uint8."""
        time.sleep(SECONDS_PER_IMAGE)
        pixels = np.frombuffer(row["pixels"], np.uint8).reshape(row["pixel_height"], row["pixel_width"], 3)
        brightness = pixels.mean(axis=2)
        rows = np.arange(row["height"]) * row["pixel_height"] // row["height"]
        columns = np.arange(row["width"]) * row["pixel_width"] // row["width"]
        segment_map = (brightness // 64).astype(np.uint16)[np.ix_(rows, columns)]
        values = [int(value) for value in np.unique(segment_map)]
        shares = [float(np.mean(segment_map == value)) for value in values]
        return {
            "width": row["width"],
            "height": row["height"],
            "segment_map": np.ascontiguousarray(segment_map).tobytes(),
            "segment_values": values,
            "class_ids": values,
            "scores": [float(np.mean(brightness) / 255) * share for share in shares],
            **dict.fromkeys(("stability", "agreement", "objectness", "margin"), shares),
        }
