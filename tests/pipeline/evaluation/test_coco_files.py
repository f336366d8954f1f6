"""An error in a COCO file is reported with file and entry, on the command line, before any work starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from maskmill.jobs.main import app
from tests.pipeline.evaluation.handmade import Run, encode, wide

RLE = {"size": [4, 6], "counts": encode(np.ones((4, 6), bool))}
SEGMENTS: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "height": 4, "width": 6},
        {"id": 2, "file_name": "b.jpg", "height": 4, "width": 6},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 0, "segmentation": dict(RLE)},
        {"id": 2, "image_id": 2, "category_id": 0, "segmentation": dict(RLE)},
    ],
    "categories": [{"id": 0, "name": "sky"}, {"id": 1, "name": "cat"}],
}
PANOPTIC: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [
        {
            "image_id": 1,
            "file_name": "a.png",
            "segments_info": [{"id": 5, "category_id": 0}, {"id": 6, "category_id": 1}],
        },
        {"image_id": 2, "file_name": "b.png", "segments_info": [{"id": 5, "category_id": 0}]},
    ],
    "categories": [{"id": 0, "name": "sky"}, {"id": 1, "name": "cat"}],
}
REMOVED = object()
Refusal = Callable[[str | bytes, str], str]

WRONG_SEGMENTS: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("images", 1, "id"), 1, "images[1].id: 1 is also that of images[0].id"),
    (("images", 1, "file_name"), "a.jpg", "images[1].file_name: 'a.jpg' is also that of images[0].file_name"),
    (("images", 1, "file_name"), "", "images[1].file_name: "),
    (("images", 1, "file_name"), 3, "images[1].file_name: "),
    (("images", 1, "id"), True, "images[1].id: an id must be an integer or a text, got True"),
    (("images", 1, "id"), 2.0, "images[1].id: an id must be an integer or a text, got 2.0"),
    (("images", 1, "id"), REMOVED, "images[1].id is missing"),
    (("images", 1, "height"), 0, "images[1].height: "),
    (("images", 1, "height"), "4", "images[1].height: "),
    (("images", 1, "width"), 7, "annotations[1].segmentation: an RLE of 4x6 for image 'b' of 4x7"),
    (("images",), {}, "images: "),
    (("images", 0), None, "images[0]: "),
    (("annotations", 1, "image_id"), 17, "annotations[1].image_id: 17 is not in the file's table 'images'"),
    (("annotations", 1, "image_id"), "2", "annotations[1].image_id: '2' is not in the file's table 'images'"),
    (("annotations", 1, "image_id"), REMOVED, "annotations[1] has neither 'file_name' nor 'image_id'"),
    (("annotations", 1, "category_id"), "sky", "annotations[1].category_id: "),
    (("annotations", 1, "category_id"), False, "annotations[1].category_id: "),
    (("annotations", 1, "category_id"), REMOVED, "annotations[1].category_id is missing"),
    (("annotations", 1, "iscrowd"), "0", "annotations[1].iscrowd: must be 0 or 1, got '0'"),
    (("annotations", 1, "score"), 1.5, "annotations[1].score: "),
    (("annotations", 1, "score"), "high", "annotations[1].score: "),
    (("annotations", 1, "segmentation"), [[1, 1, 2, 2]], "annotations[1].segmentation: must be an RLE "),
    (("annotations", 1, "segmentation", "size"), [4, -6], "annotations[1].segmentation: an RLE's size must be"),
    (("annotations", 1, "segmentation", "size"), [4], "annotations[1].segmentation: an RLE's size must be"),
    (("annotations", 1, "segmentation", "counts"), [30, -6], "annotations[1].segmentation: an RLE's counts must be"),
    (("annotations", 1, "segmentation", "counts"), [0, 23], "annotations[1].segmentation: an RLE covers 23 pixels"),
    (("annotations", 1), "text", "annotations[1]: "),
    (("categories", 1, "id"), 0, "categories[1].id: 0 is also that of categories[0].id"),
    (("categories", 1, "name"), None, "categories[1].name: "),
]
WRONG_PANOPTIC: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("annotations", 1, "file_name"), "a.png", "annotations[1].file_name: 'a.png' is also that of annotations[0]"),
    (("annotations", 1, "image_id"), 1, "annotations[1].image_id: 1 is also that of annotations[0].image_id"),
    (("annotations", 1, "image_id"), 9, "annotations[1].image_id: 9 is not in the file's table 'images'"),
    (("annotations", 1, "segments_info"), REMOVED, "annotations[1].segments_info is missing"),
    (("annotations", 0, "segments_info", 1, "id"), 5, "annotations[0].segments_info[1].id: 5 is also that of "),
    (("annotations", 0, "segments_info", 1, "id"), 0, "annotations[0].segments_info[1].id: "),
    (("annotations", 0, "segments_info", 1, "id"), 2**24, "annotations[0].segments_info[1].id: "),
    (("annotations", 0, "segments_info", 1, "category_id"), "cat", "annotations[0].segments_info[1].category_id: "),
    (("images", 1, "id"), 1, "images[1].id: 1 is also that of images[0].id"),
]


WRONG_RESULTS = [row for row in WRONG_SEGMENTS if row[0][0] == "annotations" and "images" not in row[2]]


def changed(data: dict[str, Any], place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """Return a copy with one value changed or removed."""
    copy = deepcopy(data)
    *way, last = place
    inside: Any = copy
    for part in way:
        inside = inside[part]
    if value is REMOVED:
        del inside[last]
    else:
        inside[last] = value
    return copy


@pytest.fixture
def refusal(run: Run, protocol_file: Path, tmp_path: Path) -> Refusal:
    """Evaluates against a file of this content, or (side "output") the file itself; returns the error line."""
    run.add("s", {"a": wide(np.zeros((4, 6), np.uint8)), "b": wide(np.zeros((4, 6), np.uint8))})

    def call(content: str | bytes, side: str) -> str:
        path = tmp_path / "file.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        sides = (str(run.folder), str(path)) if side == "truth" else (str(path), str(path))
        result = CliRunner().invoke(app, ["evaluate", *sides, "--protocol", str(protocol_file)])
        assert result.exit_code == 2, result.output
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert "file.json" in line
        return line

    return call


@pytest.mark.parametrize("place, value, message", WRONG_SEGMENTS)
def test_annotations(place: tuple[str | int, ...], value: Any, message: str, refusal: Refusal) -> None:
    assert message in refusal(json.dumps(changed(SEGMENTS, place, value)), "truth")


@pytest.mark.parametrize("place, value, message", WRONG_PANOPTIC)
def test_panoptic(place: tuple[str | int, ...], value: Any, message: str, refusal: Refusal) -> None:
    assert message in refusal(json.dumps(changed(PANOPTIC, place, value)), "truth")


@pytest.mark.parametrize("place, value, message", WRONG_RESULTS)
def test_results(place: tuple[str | int, ...], value: Any, message: str, refusal: Refusal) -> None:
    results = changed(SEGMENTS, place, value)["annotations"]
    assert message.removeprefix("annotations") in refusal(json.dumps(results), "output")


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "is no valid JSON"),
        ('{"annotations": [', "is no valid JSON"),
        ("[" * 100_000, "is no valid JSON: recursion limit"),
        (b"\xff\xfe\xfa", "is no valid JSON"),
        ("3", "got 3"),
        ("{}", "is no COCO file"),
        ('[{"image_id": 1, "category_id": NaN}]', "[0].category_id: "),
    ],
)
@pytest.mark.parametrize("side", ["truth", "output"])
def test_what_is_no_such_file(side: str, content: str | bytes, message: str, refusal: Refusal) -> None:
    assert message in refusal(content, side)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_any_encoding_of_unicode_is_read(encoding: str, refusal: Refusal) -> None:
    content = json.dumps(changed(SEGMENTS, ("images", 1, "id"), 1)).encode(encoding)
    assert "images[1].id: 1 is also that of images[0].id" in refusal(content, "truth")


def test_a_file_that_is_wrong_throughout_makes_one_error(refusal: Refusal) -> None:
    assert len(refusal(json.dumps([{"category_id": "x" * 1000}] * 20_000), "output")) < 400


def test_panoptic_annotations_are_no_predictions(refusal: Refusal) -> None:
    assert "ground truth only" in refusal(json.dumps(PANOPTIC), "output")
