"""Overlay pictures: the right pixels in the right colours, and grids made from a run's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.masks.segments import segment_geometry
from maskmill.pipeline.output.folder import Output, labels_name
from maskmill.pipeline.output.markers import marker_name
from maskmill.pipeline.output.schema import LABELS
from maskmill.pipeline.pictures.overlay import TINT, UNLABELLED_TINT, draw_segments, grid, tile
from maskmill.pipeline.results.show import overlay_grid
from maskmill.pipeline.shapes import CLASSES, draw
from maskmill.pipeline.shapes.write import ShapesSettings, write_shapes
from maskmill.pipeline.sources import list_shards, read_shard

COLOURS = [entry.colour for entry in CLASSES]


def labels_row(label_map: np.ndarray) -> dict[str, object]:
    """A labels row, as far as pictures need it, saying what ``label_map`` (H, W) says; 255 is unlabelled."""
    ids = [int(value) for value in np.unique(label_map) if value != 255]
    geometry = segment_geometry(label_map, ids)
    return {
        "width": label_map.shape[1],
        "height": label_map.shape[0],
        "class_ids": ids,
        "class_names": [CLASSES[class_id].name for class_id in ids],
        "scores": [0.5] * len(ids),
        "areas": geometry.areas,
        "rles": geometry.rles,
    }


def test_pixels_take_their_segments_colour() -> None:
    label_map = np.full((6, 9), 255, dtype=np.uint8)
    label_map[:, :3], label_map[:, 3:6] = 0, 4
    image = np.full((6, 9, 3), 100, dtype=np.uint8)
    drawn = draw_segments(image, labels_row(label_map), COLOURS)
    for column, expected in ((1, COLOURS[0]), (4, COLOURS[4])):
        tinted = [int(100 * (1 - TINT) + part * TINT) for part in expected]
        assert np.abs(drawn[2, column].astype(int) - tinted).max() <= 1
    assert drawn[2, 7].tolist() == [int(100 * (1 - UNLABELLED_TINT))] * 3
    assert (drawn[:, [3, 6]] == 255).all()  # where segments meet
    assert (image == 100).all()  # the input is left alone


def test_a_row_of_another_image_is_refused() -> None:
    row = labels_row(np.zeros((6, 9), dtype=np.uint8))
    with pytest.raises(ValueError, match="9x6 image, not of 6x9"):
        draw_segments(np.zeros((9, 6, 3), dtype=np.uint8), row, COLOURS)


def test_an_image_without_segments_is_drawn_dark() -> None:
    image = np.full((4, 4, 3), 200, dtype=np.uint8)
    row = {"height": 4, "width": 4, "rles": [], "class_ids": [], "class_names": [], "scores": [], "areas": []}
    assert (draw_segments(image, row, COLOURS) == 50).all()
    assert tile(image, row, COLOURS).size == tile(*drawing(1), COLOURS).size


def drawing(index: int) -> tuple[np.ndarray, dict[str, object]]:
    image, label_map = draw(5, index)
    return image, labels_row(label_map)


def test_tiles_hold_the_image_its_segments_and_a_legend() -> None:
    image, row = drawing(0)
    picture = np.asarray(tile(image, row, COLOURS, side_px=256))
    assert (picture[:256:2, :256:2] == image).all()
    assert (picture[:256:2, 264:520:2] == draw_segments(image, row, COLOURS)).all()
    swatches = {tuple(colour) for colour in picture[264:, 8].tolist()}
    largest = sorted(zip(row["areas"], row["class_ids"], strict=True), reverse=True)[:6]
    assert {COLOURS[class_id] for _, class_id in largest} <= swatches


def test_wide_and_tall_images_fit_their_tile() -> None:
    for height, width in ((40, 400), (400, 40)):
        label_map = np.zeros((height, width), dtype=np.uint8)
        picture = tile(np.zeros((height, width, 3), dtype=np.uint8), labels_row(label_map), COLOURS, side_px=128)
        assert picture.size == tile(*drawing(0), COLOURS, side_px=128).size


def test_grids_fill_row_by_row() -> None:
    tiles = [Image.new("RGB", (10, 6), (shade, 0, 0)) for shade in (50, 100, 150)]
    picture = np.asarray(grid(tiles, columns=2))
    reds = [int(value) for value in np.unique(picture[..., 0]) if value != 255]
    assert reds == [50, 100, 150]
    assert picture.shape == (2 * 14 + 8, 2 * 26, 3)


def test_a_grid_from_a_runs_files(tmp_path: Path) -> None:
    source, target = str(tmp_path / "images"), str(tmp_path / "out")
    write_shapes(source, ShapesSettings(images=6, seed=5, shard_size=3))
    output = Output(target)
    output.write_json("run.json", {"config": {"image_column": None}})
    classes = [{"class_id": i, "name": entry.name, "colour": entry.colour} for i, entry in enumerate(CLASSES)]
    output.write_json("classes.json", {"classes": classes})
    for position, shard in enumerate(list_shards(source)):
        uris = [record.uri for record in read_shard(shard)]
        labelled = [row for row in range(3) if 3 * position + row in (0, 2, 3)]
        rows = [{**labels_row(draw(5, 3 * position + row)[1]), "row": row, "uri": uris[row]} for row in labelled]
        schema = pa.schema([LABELS.field(name) for name in rows[0]])
        output.write_table(labels_name(shard.shard_id), pa.Table.from_pylist(rows, schema=schema))
        output.write_json(marker_name(shard.shard_id), {})
    picture = overlay_grid(target, images=4, columns=3)
    assert picture.size == grid([tile(*drawing(0), COLOURS)] * 3, columns=3).size
    # The left halves of the tiles are images 0, 2 and 3, for 1 has no row. JPEG moves a pixel by 2.7 to 4.2 levels in
    # the mean (measured on these drawings), another drawing by more than 30.
    step = tile(*drawing(0), COLOURS).width + 16
    for position, index in enumerate((0, 2, 3)):
        left = 8 + position * step
        shown = np.asarray(picture)[8:264:2, left : left + 256 : 2].astype(int)
        assert np.abs(shown - draw(5, index)[0]).mean() < 6


def test_a_place_without_a_run_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        overlay_grid(str(tmp_path), images=4, columns=2)
