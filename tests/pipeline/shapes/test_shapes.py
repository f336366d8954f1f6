"""The shapes world: its split is as documented, and its drawings are repeatable, exact and quick to make."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from maskmill.jobs.shapes import shapes
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.shapes import CLASSES, allowed_class_ids, draw
from maskmill.pipeline.shapes.draw import compose
from maskmill.pipeline.shapes.world import COLOURS, SHAPES, STUFFS
from maskmill.pipeline.shapes.write import ShapesSettings, write_shapes

IMAGES = 30
SAMPLE = 400


def written(destination: Path, **settings: Any) -> Path:
    write_shapes(str(destination), ShapesSettings(**{"images": IMAGES, "seed": 5, "shard_size": 12, **settings}))
    return destination


def test_the_split_has_three_kinds_of_unseen_classes() -> None:
    groups = {group: [c.name for c in CLASSES if c.group == group] for group in {c.group for c in CLASSES}}
    assert len(CLASSES) == len(SHAPES) * len(COLOURS) + len(STUFFS) == 56
    assert len(groups["seen"]) == 37
    assert sorted(groups["new_shape"]) == sorted(f"{c} {s}" for s in ("heart", "moon") for c in COLOURS)
    assert groups["new_combination"] == [
        "red circle",
        "yellow square",
        "green triangle",
        "blue star",
        "purple cross",
        "white ring",
    ]
    assert groups["new_stuff"] == ["gravel"]
    assert len({c.colour for c in CLASSES}) == len({c.name for c in CLASSES}) == 56


def test_a_drawing_depends_on_nothing_but_seed_and_index() -> None:
    first = draw(3, 7)
    draw(3, 8)
    again = draw(3, 7)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (draw(3, 8), draw(4, 7)):
        assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("allowed", ["all", "seen"])
def test_labels_hold_every_allowed_class_and_no_other(allowed: str) -> None:
    pixels = np.zeros(256, dtype=int)
    for index in range(SAMPLE):
        image, label = draw(0, index, allowed)
        assert image.shape == (128, 128, 3)
        assert label.shape == (128, 128)
        assert image.dtype == label.dtype == np.uint8
        pixels += np.bincount(label.ravel(), minlength=256)
    assert np.flatnonzero(pixels).tolist() == allowed_class_ids(allowed)


def test_every_object_of_a_scene_is_visible_in_its_label_map() -> None:
    for index in range(100):
        scene, (_, label) = compose(1, index), draw(1, index)
        assert 1 <= len(scene.things) <= 5
        for thing in scene.things:
            # The smallest object here has 180 pixels; over 1,500 scenes of another world it had 161.
            assert np.count_nonzero(label == thing.class_id) >= 150


def test_the_label_border_is_where_the_picture_changes() -> None:
    """Plain objects on even ground: labelled pixels have the hue of the paint, and the pixels beside them do not."""
    checked = 0
    for index in range(SAMPLE):
        scene = compose(2, index)
        image, label = draw(2, index)
        if len(scene.grounds) > 1 or STUFFS[scene.grounds[0].stuff] not in ("sand", "brick", "wood"):
            continue
        for thing in scene.things:
            if CLASSES[thing.class_id].name.split()[0] != "blue":
                continue
            inside = image[label == thing.class_id].astype(int)
            outside = image[label >= len(SHAPES) * len(COLOURS)].astype(int)
            assert np.mean(inside[:, 2] > inside[:, 0]) > 0.97
            assert np.mean(outside[:, 2] > outside[:, 0]) < 0.03
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("file_format", ["wds", "parquet", "folder"])
def test_writing_twice_gives_the_same_bytes(tmp_path: Path, file_format: str) -> None:
    trees = [written(tmp_path / name, file_format=file_format) for name in ("a", "b")]
    # Writing again into the same place gives the same files and no more.
    written(tmp_path / "b", file_format=file_format)
    digests = [
        {p.relative_to(tree): hashlib.sha256(p.read_bytes()).hexdigest() for p in tree.rglob("*") if p.is_file()}
        for tree in trees
    ]
    assert digests[0] == digests[1]
    assert json.loads((tmp_path / "a" / "classes.json").read_text())["ignore_label"] == 255


def test_all_formats_hold_the_same_images_and_labels(tmp_path: Path) -> None:
    trees = {name: written(tmp_path / name, file_format=name) for name in ("wds", "parquet", "folder")}
    assert sorted(p.name for p in trees["wds"].glob("[!.]*")) == ["00000.tar", "00001.tar", "00002.tar", "classes.json"]
    in_tars = {}
    for path in trees["wds"].glob("*.tar"):
        with tarfile.open(path) as archive:
            in_tars |= {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    in_folder = {p.name: p.read_bytes() for p in trees["folder"].glob("[!.]*") if p.name != "classes.json"}
    in_parquet = {}
    for path in trees["parquet"].glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            in_parquet[f"{row['image_id']}.jpg"] = row["image"]
            in_parquet[f"{row['image_id']}.seg.png"] = row["segmentation"]
    assert in_tars == in_folder == in_parquet
    assert len(in_tars) == 2 * IMAGES

    image, label = draw(5, 17)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(in_tars["000017.seg.png"]))), label)
    decoded = np.asarray(Image.open(io.BytesIO(in_tars["000017.jpg"]))).astype(int)
    # JPEG quality 95 changed the samples of this drawing by 2.2 of 255 levels in the mean.
    assert np.abs(decoded - image).mean() < 3


def test_writing_to_s3(tmp_path: Path, s3_bucket: Any) -> None:
    for file_format in ("wds", "parquet", "folder"):
        local = written(tmp_path / file_format, file_format=file_format)
        settings = ShapesSettings(images=IMAGES, seed=5, shard_size=12, file_format=file_format)
        write_shapes(f"{s3_bucket.uri}/{file_format}", settings)
        names = {p.name: p.read_bytes() for p in local.iterdir()}
        assert {key.partition("/")[2]: s3_bucket.get(key) for key in s3_bucket.keys(file_format + "/")} == names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"file_format": "zip"}, "unknown format 'zip'; choose from: wds, parquet, folder"),
        ({"allowed": "some"}, "unknown classes-allowed 'some'; choose from: all, seen"),
    ],
)
def test_wrong_settings_name_the_right_ones(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ShapesSettings(**{"images": 1, **settings})


def test_a_place_with_other_files_is_refused(tmp_path: Path) -> None:
    written(tmp_path, images=30)
    with pytest.raises(UsageError, match=r"already holds 2 other files \(00001.tar, 00002.tar\)"):
        written(tmp_path, images=10)


def test_the_command_writes_and_says_so(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(shapes)
    result = CliRunner().invoke(app, [str(tmp_path / "d"), "--images", "5", "--seed", "5", "--classes-allowed", "seen"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"5 images in {tmp_path / 'd'} (wds, ")
    with tarfile.open(tmp_path / "d" / "00000.tar") as archive:
        assert len(archive.getmembers()) == 10


def test_drawing_and_encoding_take_less_than_10_ms_an_image(tmp_path: Path) -> None:
    """Measured 3.6 to 4.1 ms through the command on a busy machine; the best of three runs, since others share it."""
    draw(0, 0)
    seconds = []
    for attempt in range(3):
        started = time.process_time()
        written(tmp_path / str(attempt), images=60, shard_size=60)
        seconds.append(time.process_time() - started)
    assert min(seconds) / 60 < 0.010
