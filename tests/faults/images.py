"""Small images by the thousand, in tars: noise under a gradient, each of its own seed, a few of them damaged."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def small_jpeg(number: int, size: int = 48) -> bytes:
    """A JPEG (size, size, 3) in which every brightness occurs; the same number gives the same bytes."""
    rng = np.random.default_rng(number)
    across = np.linspace(0, 255, size)[None, :, None]
    pixels = across + rng.normal(0, 30, (size, 1, 3)) + rng.integers(-60, 60, 3)
    stream = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def write_tars(folder: Path, images: int, per_shard: int, damaged_every: int = 0) -> Path:
    """Write ``images`` into tars of ``per_shard``; every so manieth is cut short. Returns the folder."""
    folder.mkdir(parents=True)
    for first in range(0, images, per_shard):
        with tarfile.open(folder / f"{first // per_shard:04d}.tar", "w") as archive:
            for number in range(first, min(images, first + per_shard)):
                data = small_jpeg(number)
                if damaged_every and number % damaged_every == damaged_every - 1:
                    data = data[: len(data) // 2]
                info = tarfile.TarInfo(f"{number:06d}.jpg")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return folder
