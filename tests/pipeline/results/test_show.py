"""One image of a run is found by its id and drawn with all its segments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.masks.maps import segment_map
from maskmill.pipeline.report.cards import show_command
from maskmill.pipeline.results.reader import Results, open_results
from maskmill.pipeline.results.show import find_row, show_image
from tests.pipeline.labelled_files import encoded, label_files, picture
from tests.pipeline.written_run import RunSettings, read_labels, write_run


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("show"), RunSettings(images=20))


@pytest.fixture
def results(out: Path) -> Results:
    return open_results(str(out))


def test_any_image_is_found_by_its_id(out: Path, results: Results) -> None:
    rows = read_labels(out)
    assert [find_row(results, row["image_id"]) for row in rows[::6]] == rows[::6]
    assert find_row(results, rows[-1]["image_id"], rows[-1]["shard"]) == rows[-1]


def test_what_is_not_there_is_said(results: Results) -> None:
    with pytest.raises(UsageError, match="no labelled image 'nobody'"):
        find_row(results, "nobody")
    with pytest.raises(UsageError, match="no finished shard 'none'"):
        find_row(results, "000001", "none")


def test_an_id_in_two_shards_asks_for_the_shard(out: Path, results: Results, tmp_path: Path) -> None:
    write_run(tmp_path, RunSettings(images=20))
    first, second = results.shard_ids
    copy = tmp_path / "out" / "labels"
    other = open_results(str(tmp_path / "out"))
    (copy / f"{other.shard_ids[1]}.parquet").write_bytes((out / "labels" / f"{first}.parquet").read_bytes())
    with pytest.raises(UsageError, match=f"--shard {other.shard_ids[0]}  .*\n.*--shard {other.shard_ids[1]}  "):
        find_row(other, "000001")
    assert find_row(other, "000001", other.shard_ids[0])["image_id"] == "000001"
    assert second != first


def test_images_of_one_id_in_one_shard_are_told_apart_by_row(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for shade, name in enumerate(["a.jpg", "a.png", "b.png"]):
        data = encoded(picture(width=20 + shade), "JPEG" if name.endswith("jpg") else "PNG")
        (tmp_path / "in" / name).write_bytes(data)
    results = open_results(str(label_files(str(tmp_path / "in"), tmp_path / "out")))
    (shard,) = results.shard_ids
    with pytest.raises(UsageError, match="choose one with") as refusal:
        find_row(results, "a", shard)
    for row, name in enumerate(["a.jpg", "a.png"]):
        assert f"--shard {shard} --row {row}  ({tmp_path}/in/{name})" in str(refusal.value)
        assert find_row(results, "a", row=row)["width"] == 20 + row
    with pytest.raises(UsageError, match="in row 2"):
        find_row(results, "a", row=2)
    assert show_command("OUT", find_row(results, "a", row=1)) == f"maskmill show --shard {shard} --row 1 OUT a"


def test_the_picture_shows_segments_in_their_colours(results: Results) -> None:
    row = find_row(results, "000002")
    picture = np.asarray(show_image(results, row, 128)).astype(int)
    image, legend = picture[:128, :128], picture[:, 128:]
    positions = segment_map(row["rles"], 128, 128)
    largest = int(np.argmax(row["areas"]))
    colour = np.array(results.colours[row["class_ids"][largest]])
    inside = np.median(image[positions == largest], axis=0)
    outside = np.median(image[positions != largest], axis=0)
    assert np.abs(inside - colour).sum() < np.abs(outside - colour).sum()
    for class_id in row["class_ids"]:
        assert (legend == results.colours[class_id]).all(axis=2).any(), "every class is in the legend"


def test_a_changed_image_is_refused(tmp_path: Path) -> None:
    results = open_results(str(write_run(tmp_path, RunSettings(images=3, source="folder"))))
    row = find_row(results, "000001")
    Path(row["uri"]).unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        show_image(results, row, 128)
