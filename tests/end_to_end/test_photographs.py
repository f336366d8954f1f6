"""Photographs go through the whole pipeline without error, whatever a model of drawn shapes calls what is in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.conftest import Label, by_image, read_rows
from tests.pipeline.masks.decoded import decode_segment_map

skimage_data = pytest.importorskip("skimage.data")


def test_photographs(label: Label, tmp_path: Path) -> None:
    source = tmp_path / "photographs"
    source.mkdir()
    pictures = {name: getattr(skimage_data, name)() for name in ("astronaut", "coffee", "chelsea")}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(source / f"{name}.jpg", quality=92)
    label(source, tmp_path / "out")
    rows = by_image(read_rows(tmp_path / "out"))
    assert not read_rows(tmp_path / "out", "errors")
    assert sorted(rows) == sorted(pictures)
    for name, row in rows.items():
        height, width = pictures[name].shape[:2]
        assert (row["height"], row["width"]) == (height, width)
        label_map = decode_segment_map(row["rles"], height, width, row["class_ids"], 65535)
        assert np.mean(label_map != 65535) == pytest.approx(row["coverage"]) == 1.0
