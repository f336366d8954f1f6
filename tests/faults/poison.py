"""A model that some images kill, and a folder of tars with such images among good ones."""

from __future__ import annotations

import ctypes
import io
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskmill.pipeline.sources import ImageRecord, Shard
from maskmill.pipeline.stages.quarantine import Run, no_quarantine
from maskmill.pipeline.stages.read import ReadStage
from maskmill.pipeline.stages.rows import Row
from tests.faults import tiny_model
from tests.faults.images import small_jpeg
from tests.faults.tiny_model import TinyStage

KINDS = {
    "segfault": "worker_died",
    "exit": "worker_died",
    "abort": "worker_died",
    "hang": "timed_out",
    "memory": "MemoryError",
}
"""What an image does to its worker, and the error class it must end with."""
PIECE_BYTES = 64 * 2**20


class PoisonedStage(TinyStage):
    """The tiny model, with the bugs that native code has."""

    def segment(self, row: Row) -> Row:
        harm(row["image_id"].partition("-")[0])
        return super().segment(row)


def harm(kind: str) -> None:
    """Do what native code with a bug does."""
    if kind == "segfault":
        ctypes.string_at(0)
    elif kind == "exit":
        os._exit(1)
    elif kind == "abort":
        os.abort()
    elif kind == "hang":
        while True:
            pass
    elif kind == "memory":
        taken = []
        while True:
            taken.append(bytes(PIECE_BYTES))


class PoisonedReadStage(ReadStage):
    """Reads shards with the bugs that native code has, after the first images of a shard named for one."""

    def records(self, shard: Shard) -> Iterator[ImageRecord]:
        for record in super().records(shard):
            if record.row == GOOD_BEFORE_HARM:
                harm(shard.shard_id.partition("-")[0])
            yield record


GOOD_BEFORE_HARM = 3


class SlowPoisonedStage(PoisonedStage):
    """The same at the speed of a small real model, for measuring what the poison costs."""

    def segment(self, row: Row) -> Row:
        time.sleep(SLOW_SECONDS_PER_IMAGE - tiny_model.SECONDS_PER_IMAGE)
        return super().segment(row)


SLOW_SECONDS_PER_IMAGE = 0.06


def write_poisoned(folder: Path, images: int, per_shard: int, poison: list[str]) -> Path:
    """Tars of ``images`` good images, with one image of each kind in ``poison`` spread evenly among them."""
    folder.mkdir()
    places = {(number + 1) * images // (len(poison) + 1): kind for number, kind in enumerate(poison)}
    for first in range(0, images, per_shard):
        with tarfile.open(folder / f"{first // per_shard:04d}.tar", "w") as archive:
            for number in range(first, min(images, first + per_shard)):
                names = [f"good-{number:06d}.jpg"] + ([f"{places[number]}-{number}.jpg"] if number in places else [])
                for name in names:
                    data = small_jpeg(number)
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return folder


class StuckStage(TinyStage):
    """A model that never finishes loading, so that no batch is ever begun."""

    def __init__(self, model: Any, threads: int, run: Run = no_quarantine) -> None:
        super().__init__(model, threads, run)
        time.sleep(3600)
