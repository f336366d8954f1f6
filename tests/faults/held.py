"""A model that never comes to the end of the last shard, so that a run can be stopped at any time before its end."""

from __future__ import annotations

import time

from maskmill.pipeline.stages.rows import Row
from tests.faults.tiny_model import TinyStage

IMAGES = 400
SHARDS = 20
"""Of the input that this model is for, as tests/faults/images.py writes it: images are named by their numbers."""
MODEL = "tests.faults.held:HeldStage"


class HeldStage(TinyStage):
    """The tiny model, which stands still at an image of the last shard until its process is ended."""

    def segment(self, row: Row) -> Row:
        if int(row["image_id"]) >= IMAGES - IMAGES // SHARDS:
            time.sleep(3600)
        return super().segment(row)
