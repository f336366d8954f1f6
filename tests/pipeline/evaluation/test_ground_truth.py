"""The same ground truth in every supported form gives the same figures; other forms are refused with a reason."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.evaluation.evaluate import Evaluation
from maskmill.pipeline.evaluation.protocol import EvaluationError
from maskmill.pipeline.sources import ShardError
from tests.pipeline.evaluation.handmade import (
    THREE,
    Run,
    blobs,
    encode,
    label_row,
    panoptic_json,
    png,
    segments_of,
    wide,
    write_folder,
    write_tar,
)

Evaluated = Callable[..., Evaluation]
IDS = [f"set/{i:03d}" for i in range(7)]


@pytest.fixture
def truth() -> dict[str, np.ndarray]:
    """Ground truth of seven images, with ignored pixels, and a class that one of them lacks."""
    rng = np.random.default_rng(5)
    maps = {image_id: blobs(rng, 3) for image_id in IDS}
    for labels in maps.values():
        labels[:2, :5] = 255
    maps[IDS[0]][:] = 0
    return maps


@pytest.fixture
def labelled(run: Run) -> Run:
    rng = np.random.default_rng(6)
    run.add("s1", {image_id: blobs(rng, 3) for image_id in IDS[:4]})
    run.add("s2", {image_id: blobs(rng, 3) for image_id in IDS[4:]})
    return run


@pytest.fixture
def figures(labelled: Run, truth: dict[str, np.ndarray], evaluated: Evaluated, tmp_path: Path) -> dict[str, object]:
    """The figures that every form of this ground truth must give."""
    return comparable(evaluated(labelled.folder, write_folder(tmp_path / "reference", truth)))


def comparable(evaluation: Evaluation) -> dict[str, object]:
    return {key: value for key, value in evaluation.figures.items() if key != "fingerprint"}


def test_a_tar_with_the_images(
    labelled: Run, truth: dict[str, np.ndarray], figures: object, evaluated: Evaluated, tmp_path: Path
) -> None:
    assert comparable(evaluated(labelled.folder, write_tar(tmp_path / "gt.tar", truth))) == figures


def test_a_folder_with_the_images(
    labelled: Run, truth: dict[str, np.ndarray], figures: object, evaluated: Evaluated, tmp_path: Path
) -> None:
    for image_id, labels in truth.items():
        path = tmp_path / "gt" / f"{image_id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*labels.shape, 3), np.uint8)).save(path)
        path.with_suffix(".seg.png").write_bytes(png(labels))
    assert comparable(evaluated(labelled.folder, tmp_path / "gt")) == figures


@pytest.mark.parametrize("form", ["folder", "tar", "tgz", "manifest", "beside png"])
def test_label_maps_without_their_images(
    form: str, labelled: Run, truth: dict[str, np.ndarray], figures: object, evaluated: Evaluated, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "gt", {f"{image_id}.seg": labels for image_id, labels in truth.items()})
    place = folder
    if form == "manifest":
        place = tmp_path / "gt.txt"
        place.write_text("".join(f"gt/{image_id}.seg.png\n" for image_id in truth))
    elif form == "beside png":
        for name, labels in ((IDS[0], truth[IDS[0]]), ("set/without ground truth", truth[IDS[1]])):
            (folder / f"{name}.png").write_bytes(png(np.zeros((*labels.shape, 3), np.uint8)))
    elif form != "folder":
        place = tmp_path / f"gt.{form}"
        with tarfile.open(place, "w:gz" if form == "tgz" else "w") as archive:
            for image_id in truth:
                archive.add(folder / f"{image_id}.seg.png", f"{image_id}.seg.png")
    assert comparable(evaluated(labelled.folder, place)) == figures


def test_a_parallel_tree_matched_by_file_name(
    labelled: Run, truth: dict[str, np.ndarray], figures: object, evaluated: Evaluated, tmp_path: Path
) -> None:
    maps = {f"elsewhere/{image_id.split('/')[1]}_gt": labels for image_id, labels in truth.items()}
    folder = write_folder(tmp_path / "gt", maps)
    assert comparable(evaluated(labelled.folder, folder, ground_truth_suffix="_gt")) == figures


@pytest.mark.parametrize("column", ["segmentation", "label_map"])
def test_parquet_with_label_maps(
    column: str, labelled: Run, truth: dict[str, np.ndarray], figures: object, evaluated: Evaluated, tmp_path: Path
) -> None:
    table = pa.table({"image_id": list(truth), column: [png(labels) for labels in truth.values()]})
    pq.write_table(table, tmp_path / "gt.parquet", row_group_size=3)
    assert comparable(evaluated(labelled.folder, tmp_path / "gt.parquet", shard_size=2)) == figures


def test_parquet_with_a_column_of_another_name(
    labelled: Run, truth: dict[str, np.ndarray], figures: object, evaluated: Evaluated, tmp_path: Path
) -> None:
    table = pa.table({"image_id": list(truth), "annotated": [png(labels) for labels in truth.values()]})
    pq.write_table(table, tmp_path / "gt.parquet")
    with pytest.raises(UsageError, match="its columns are image_id, annotated"):
        evaluated(labelled.folder, tmp_path / "gt.parquet")
    assert comparable(evaluated(labelled.folder, tmp_path / "gt.parquet", ground_truth_column="annotated")) == figures


def test_parquet_with_rles(
    labelled: Run, truth: dict[str, np.ndarray], figures: object, evaluated: Evaluated, tmp_path: Path
) -> None:
    rows = []
    for image_id, labels in truth.items():
        class_ids, rles = segments_of(wide(labels))
        row = label_row(image_id, labels.shape, class_ids, rles, [])
        rows.append({name: row[name] for name in ("image_id", "width", "height", "class_ids", "rles")})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "gt.parquet", row_group_size=2)
    assert comparable(evaluated(labelled.folder, tmp_path / "gt.parquet", shard_size=4)) == figures


def stuff_json(truth: dict[str, np.ndarray], categories: dict[int, str], compressed: bool = True) -> dict[str, object]:
    """Return COCO annotations with one RLE per class and image; a category's position is its class."""
    annotations = []
    for number, labels in enumerate(truth.values()):
        for class_id, category in enumerate(categories):
            mask = labels == class_id
            if mask.any():
                counts: object = encode(mask)
                if not compressed:
                    flat = mask.ravel(order="F")
                    edges = np.flatnonzero(np.diff(flat)) + 1
                    counts = np.diff([0, *([0] if flat[0] else []), *edges, flat.size]).tolist()
                rle = {"size": list(mask.shape), "counts": counts}
                annotations.append({"image_id": number, "category_id": category, "segmentation": rle})
    images = [
        {"id": number, "file_name": f"{image_id}.jpg", "height": labels.shape[0], "width": labels.shape[1]}
        for number, (image_id, labels) in enumerate(truth.items())
    ]
    listed = [{"id": category, "name": name} for category, name in categories.items()]
    return {"images": images, "annotations": annotations, "categories": listed}


@pytest.mark.parametrize("compressed", [True, False])
def test_coco_stuff_json(
    compressed: bool,
    labelled: Run,
    truth: dict[str, np.ndarray],
    figures: object,
    evaluated: Evaluated,
    tmp_path: Path,
) -> None:
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(stuff_json(truth, {92: "Sky", 7: "cat", 3: "dog"}, compressed)))
    assert comparable(evaluated(labelled.folder, path, shard_size=3)) == figures


def test_coco_stuff_json_by_raw_ids(
    labelled: Run, truth: dict[str, np.ndarray], figures: object, evaluated: Evaluated, tmp_path: Path
) -> None:
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(stuff_json(truth, {10: "?", 20: "??", 30: "???"})))
    with pytest.raises(EvaluationError, match=r"does not compare \(gzs3\): '\?'"):
        evaluated(labelled.folder, path)
    assert comparable(evaluated(labelled.folder, path, ground_truth_ids="raw")) == figures


def test_coco_panoptic_json(
    labelled: Run, truth: dict[str, np.ndarray], figures: object, evaluated: Evaluated, tmp_path: Path
) -> None:
    path = panoptic_json(tmp_path, truth)
    assert comparable(evaluated(labelled.folder, path)) == figures
    (tmp_path / "panoptic").rename(tmp_path / "moved")
    assert comparable(evaluated(labelled.folder, path, panoptic_maps=str(tmp_path / "moved"))) == figures
    (tmp_path / "moved" / f"{IDS[2]}.png").unlink()
    with pytest.raises(EvaluationError, match=f"1 of 7 panoptic PNGs are not in .* '{IDS[2]}.png'; .*--panoptic-maps"):
        evaluated(labelled.folder, path, panoptic_maps=str(tmp_path / "moved"))
    with pytest.raises(EvaluationError, match=r"no panoptic PNGs: no such file or folder: .*--panoptic-maps"):
        evaluated(labelled.folder, path)


def test_raw_ids_and_reduced_labels(
    labelled: Run, truth: dict[str, np.ndarray], figures: object, evaluated: Evaluated, tmp_path: Path
) -> None:
    raw = {name: np.array([10, 20, 30, *[77] * 253], np.uint8)[labels] for name, labels in truth.items()}
    assert (
        comparable(evaluated(labelled.folder, write_folder(tmp_path / "raw", raw), ground_truth_ids="raw")) == figures
    )
    one = {name: np.where(labels == 255, 0, labels + 1).astype(np.uint8) for name, labels in truth.items()}
    assert (
        comparable(evaluated(labelled.folder, write_folder(tmp_path / "one", one), reduce_zero_label=True)) == figures
    )


def test_16_bit_maps_with_their_own_ignore_label(
    labelled: Run, truth: dict[str, np.ndarray], figures: object, evaluated: Evaluated, tmp_path: Path
) -> None:
    maps = {name: wide(labels) for name, labels in truth.items()}
    assert maps[IDS[1]].max() == 65535
    assert comparable(evaluated(labelled.folder, write_folder(tmp_path / "wide", maps))) == figures


def test_other_sizes_are_resized_and_counted(
    labelled: Run, truth: dict[str, np.ndarray], figures: dict[str, object], evaluated: Evaluated, tmp_path: Path
) -> None:
    double = {
        name: np.kron(labels, np.ones((2, 2), np.uint8)) if name in IDS[:3] else labels
        for name, labels in truth.items()
    }
    found = comparable(evaluated(labelled.folder, write_folder(tmp_path / "double", double)))
    assert found["counts"]["images_resized"] == 3  # type: ignore[index]
    assert found["warnings"] == ["the ground truth of 3 of 7 images had another size and was resized"]
    assert {key: found[key] for key in found if key not in ("counts", "warnings")} == {
        key: figures[key] for key in figures if key not in ("counts", "warnings")
    }


def test_zs3_compares_the_unseen_classes_only(tmp_path: Path, evaluated: Evaluated) -> None:
    run = Run(tmp_path / "zs3", [THREE["classes"][2]])
    truth = np.array([[0, 0, 1, 2], [2, 2, 2, 2]], np.uint8)
    run.add("s", {"a": np.array([[0, 0, 0, 0], [0, 0, 0, 65535]], np.uint16)})
    found = evaluated(run.folder, write_folder(tmp_path / "gt", {"a": truth}), setting="zs3")
    assert found.figures["miou"] == found.figures["miou_unseen"] == pytest.approx(80.0)
    assert found.figures["miou_seen"] is None
    assert found.figures["counts"]["pixels_ignored"] == 3
    assert found.figures["counts"]["classes"] == 1


@pytest.mark.parametrize(
    "content, message",
    [
        (
            png(np.full((20, 24), 7, np.uint8)),
            r"holds 7, which the protocol's 3 classes do not have.*--ground-truth-ids raw",
        ),
        (png(np.zeros((20, 24, 3), np.uint8)), "no label map but a RGB image"),
        (b"no image at all", "cannot be read as a label map"),
        (png(np.zeros((300, 300), np.uint8))[:60], "damaged"),
    ],
)
def test_what_is_no_label_map_is_named(
    content: bytes, message: str, labelled: Run, truth: dict[str, np.ndarray], evaluated: Evaluated, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "gt", truth)
    (folder / f"{IDS[3]}.png").write_bytes(content)
    with pytest.raises(EvaluationError, match=message) as caught:
        evaluated(labelled.folder, folder)
    assert IDS[3] in str(caught.value)


def test_a_damaged_tar_fails(labelled: Run, truth: dict[str, np.ndarray], evaluated: Evaluated, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "gt.tar", truth)
    path.write_bytes(path.read_bytes()[:-15000])
    with pytest.raises(ShardError, match="truncated"):
        evaluated(labelled.folder, path)


def test_a_decompression_bomb_is_refused(labelled: Run, evaluated: Evaluated, tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.new("1", (20000, 20000)).save(data, "PNG")
    folder = write_folder(tmp_path / "gt", {"x": np.zeros((2, 2), np.uint8)})
    (folder / f"{IDS[0].split('/')[1]}.png").write_bytes(data.getvalue())
    with pytest.raises(EvaluationError, match="refused"):
        evaluated(labelled.folder, folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"segmentation": [[1, 1, 2, 2]]}, "polygons are not read"),
        ({"category_id": "cat"}, r"annotations\[4\].category_id: .*integer, got 'cat'"),
        ({"image_id": None}, "neither 'file_name' nor 'image_id'"),
        ({"segmentation": {"size": [3, 3], "counts": [9]}}, "an RLE of 3x3 for image"),
        ({"category_id": 5}, "category 5"),
        (
            {"image_id": "huge"},
            r"annotations\[4\].image_id: 'huge' is not in the file's table 'images'",
        ),
    ],
)
def test_bad_coco_entries_are_named(
    change: dict[str, object],
    message: str,
    labelled: Run,
    truth: dict[str, np.ndarray],
    evaluated: Evaluated,
    tmp_path: Path,
) -> None:
    data = stuff_json(truth, {1: "sky", 2: "cat", 3: "dog"})
    data["annotations"][4].update(change)  # type: ignore[index]
    (tmp_path / "gt.json").write_text(json.dumps(data))
    with pytest.raises(EvaluationError, match=message):
        evaluated(labelled.folder, tmp_path / "gt.json")


def test_overlapping_ground_truth_segments_are_named(labelled: Run, evaluated: Evaluated, tmp_path: Path) -> None:
    mask = np.ones((20, 24), np.uint8)
    rle = {"size": [20, 24], "counts": coco_mask.encode(np.asfortranarray(mask))["counts"].decode()}
    entries = [{"file_name": f"{IDS[1]}.jpg", "category_id": i, "segmentation": rle} for i in range(2)]
    (tmp_path / "gt.json").write_text(json.dumps(entries))
    with pytest.raises(EvaluationError, match=f"ground truth '{IDS[1]}': segments share pixels"):
        evaluated(labelled.folder, tmp_path / "gt.json")
