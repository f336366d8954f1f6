"""Exports PNG label maps: every pixel is a class id, which viewers show in the colour of the class."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from maskmill.pipeline.export.target import LabelledImage, Target, index_file
from maskmill.pipeline.masks.maps import value_map
from maskmill.pipeline.results.reader import Results

MOST_8_BIT_CLASSES = 255
UNLABELLED_8_BIT, UNLABELLED_16_BIT = 255, 65535


def export_png(target: Target, images: Iterator[LabelledImage]) -> None:
    """Write ``label_maps/<shard>/<name>.png``, ``index.csv`` and ``classes.json`` (value, name and colour).

    Up to 255 classes: 8-bit palette, 255 is unlabelled. More: 16-bit grey, 65535 is unlabelled.
    """
    encode = LabelMapEncoder(target.results)
    with index_file(target) as index:
        for image in images:
            name = f"label_maps/{image.stem}.png"
            target.write(name, encode(image.row))
            index.add(name, image)
    classes = [
        {"value": entry.class_id, "name": entry.name, "colour": list(entry.colour)} for entry in target.results.classes
    ]
    target.write_json("classes.json", {"classes": classes, "ignore_label": encode.unlabelled})


class LabelMapEncoder:
    """Makes the PNG of a labels row.

    first: value of class 0. unlabelled: value of pixels without a class; by default 255 or, for many classes, 65535.
    coloured: whether 8-bit maps get a palette; some readers take the colours of a palette for the values.
    """

    def __init__(
        self, results: Results, first: int = 0, unlabelled: int | None = None, *, coloured: bool = True
    ) -> None:
        self.first = first
        self.coloured = coloured
        self.is_8_bit = len(results.classes) + first <= MOST_8_BIT_CLASSES
        default = UNLABELLED_8_BIT if self.is_8_bit else UNLABELLED_16_BIT
        self.unlabelled = default if unlabelled is None else unlabelled
        self._palette = self._make_palette(results)

    def __call__(self, row: Mapping[str, Any]) -> bytes:
        """Encode one row."""
        values = [class_id + self.first for class_id in row["class_ids"]]
        label_map = value_map(row["rles"], values, self.unlabelled, row["height"], row["width"])
        if self.is_8_bit:
            picture = Image.fromarray(label_map.astype("uint8"))
            if self.coloured:
                picture.putpalette(self._palette)
        else:
            picture = Image.fromarray(label_map)
        sink = io.BytesIO()
        picture.save(sink, "PNG")
        return sink.getvalue()

    def _make_palette(self, results: Results) -> bytes:
        palette = bytearray(3 * 256)
        if self.is_8_bit:
            for entry in results.classes:
                start = 3 * (entry.class_id + self.first)
                palette[start : start + 3] = bytes(entry.colour)
        return bytes(palette)
