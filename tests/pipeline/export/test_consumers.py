"""Images with unusual names, opened by the rules of each format's readers: every image has the right labels."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from maskmill.pipeline.evaluation.coco import segment_entries
from maskmill.pipeline.evaluation.coco_files import ResultsFile, parse_coco
from maskmill.pipeline.export.export import FORMATS, ExportSettings, export_run
from tests.pipeline.export.conftest import Export
from tests.pipeline.labelled_files import encoded, label_files, picture

NAMES = [
    "a/images/b/one.png",
    "images/images/two.png",
    "Images/three.png",
    "what?.png",
    "four#5.png",
    "per%20cent%.png",
    "a name with  spaces.png",
    ".hidden/../five.png",
    "caf\u00e9.png",
    "cafe\u0301 nfd.png",
    "हिन्दी.png",
    "猫" * 80 + ".png",
    "-rf.png",
    "dots...png",
    "x:y|z*.png",
    "set.tar#7/six.png",
    "label.png/seven.png",
    "label.png",
    "label.jpg",
    "label.gif",
    "UPPER.png",
    "upper.png",
    "new\nline.png",
    r"back\slash.png",
    "a::b.png",
]
"""The names; each image has a different shade, so that its pixels identify its file."""


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a tar of all names; archives take names that folders do not."""
    folder = tmp_path_factory.mktemp("odd")
    with tarfile.open(folder / "x.tar", "w") as archive:
        for shade, name in enumerate(NAMES):
            suffix = name.rpartition(".")[2]
            options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
            data = encoded(picture(shade=shade), {"jpg": "JPEG", "gif": "GIF"}.get(suffix, "PNG"), **options)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    out = label_files(str(folder / "x.tar"), folder / "out")
    return out


def shade_of(path: Path | io.BytesIO) -> int:
    with Image.open(path) as image:
        assert image.size == (12, 10)
        return int(np.asarray(image.convert("RGB"))[5, 11, 1])


def all_shades(paths: list[Path]) -> None:
    """Check that every image is there once; JPEG changes a shade by one or so."""
    assert len(paths) == len(NAMES)
    found = sorted(shade_of(path) for path in paths)
    assert np.abs(np.array(found) - np.arange(len(NAMES))).max() <= 2


def listed_by_ultralytics(folder: Path) -> list[Path]:
    """Return what a YOLO trainer takes for images: files with its endings whose names do not begin with a dot."""
    found = [path for path in folder.rglob("*.*") if path.is_file()]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    taken = {"bmp", "dng", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp", "pfm"}
    return sorted(path for path in found if path.name.rpartition(".")[2].lower() in taken)


def label_of(image: Path) -> Path:
    """Apply the rule of ultralytics' img2label_paths: the last "/images/" becomes "/labels/", the ending ".txt"."""
    swapped = f"{os.sep}labels{os.sep}".join(str(image).rsplit(f"{os.sep}images{os.sep}", 1))
    return Path(swapped.rsplit(".", 1)[0] + ".txt")


def test_trainers_of_yolo_find_the_labels_of_every_image(odd_run: Path, export: Export) -> None:
    folder = export(odd_run, "yolo")
    images = listed_by_ultralytics(folder / "images")
    all_shades(images)
    labels = [label_of(path) for path in images]
    assert all(path.is_file() for path in labels)
    assert len({str(path).casefold() for path in labels}) == len(NAMES)
    assert {line.split()[0] for path in labels for line in path.read_text().splitlines()} == {"0", "1"}


@pytest.mark.parametrize("file_format", ["coco", "panoptic"])
def test_every_file_name_of_a_document_is_a_file(odd_run: Path, export: Export, file_format: str) -> None:
    folder = export(odd_run, file_format, images=True)
    name = "stuff.json" if file_format == "coco" else "panoptic.json"
    document = json.loads((folder / name).read_text())
    all_shades([folder / "images" / image["file_name"] for image in document["images"]])
    if file_format == "panoptic":
        by_id = {image["id"]: image for image in document["images"]}
        # panopticapi pairs PNG and image by image_id and joins the folder with file_name.
        for annotation in document["annotations"]:
            with Image.open(folder / "panoptic" / annotation["file_name"]) as ids:
                image = by_id[annotation["image_id"]]
                assert ids.size == (image["width"], image["height"])


def test_file_names_of_the_source_are_kept_whole(odd_run: Path, export: Export) -> None:
    coco = COCO(export(odd_run, "coco") / "stuff.json")
    assert [image["file_name"] for image in coco.imgs.values()] == NAMES


def test_datasets_opens_every_image(odd_run: Path, export: Export, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.load_dataset(str(export(odd_run, "hf")), split="train", cache_dir=str(tmp_path / "cache"))
    for shade, sample in enumerate(data):
        assert abs(int(np.asarray(sample["image"].convert("RGB"))[5, 11, 1]) - shade) <= 2
        assert (sample["row"], np.unique(np.asarray(sample["label_map"])).tolist()) == (shade, [0, 1])


def test_fiftyone_finds_image_and_mask_of_every_sample(odd_run: Path, export: Export) -> None:
    folder = export(odd_run, "fiftyone")
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    # The importer joins relative paths with the folder.
    all_shades([Path(os.path.join(folder, sample["filepath"])) for sample in samples])
    masks = [Path(os.path.join(folder, sample["segmentation"]["mask_path"])) for sample in samples]
    assert len(set(masks)) == len(NAMES)
    assert all(path.is_file() for path in masks)


def test_every_label_map_is_a_file_of_its_own(odd_run: Path, export: Export) -> None:
    folder = export(odd_run, "png")
    with (folder / "index.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [int(line["row"]) for line in lines] == list(range(len(NAMES)))
    assert all((folder / line["file"]).is_file() for line in lines)
    assert len({line["file"].casefold() for line in lines}) == len(NAMES)


def two_of_one_id(folder: Path) -> Path:
    """Write three images with the same id, two in one tar and one in another, and a fourth with another id."""
    for number, names in enumerate([["a.png", "a.jpg"], ["a.png", "b.png"]]):
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for name in names:
                data = encoded(picture(width=12 + 2 * number), "JPEG" if name.endswith("jpg") else "PNG")
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return label_files(str(folder / "*.tar"), folder / "out")


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("images", [False, True])
def test_images_of_one_id_get_names_of_their_own(tmp_path: Path, file_format: str, images: bool) -> None:
    out = two_of_one_id(tmp_path)
    settings = ExportSettings(file_format=file_format, images=images)
    result = export_run(str(out), str(tmp_path / "to"), settings)
    again = export_run(str(out), str(tmp_path / "again"), settings)
    assert (result.images, result.left_out) == (4, 0)
    # With images, names begin with the shard, so only the two images of one shard have the same name. Without images,
    # all three have, unless readers also look at the ending.
    expected = 1 if images else 2 if file_format == "coco-stuff" else 1
    assert result.renamed == again.renamed == expected
    files = {path.relative_to(tmp_path / "to") for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()}


def test_results_of_two_images_are_not_merged(tmp_path: Path, export: Export) -> None:
    folder = export(two_of_one_id(tmp_path), "coco-stuff")
    results = parse_coco((folder / "sem_seg_predictions.json").read_bytes(), "results")
    assert isinstance(results, ResultsFile)
    entries = segment_entries(results, "results")
    assert len(entries) == 4
    assert all(len(entry.categories) == 2 for entry in entries)
    with (folder / "index.csv").open(newline="") as stream:
        lines: list[dict[str, Any]] = list(csv.DictReader(stream))
    assert [line["image_id"] for line in lines] == ["a", "a", "a", "b"]
    assert len({line["file"] for line in lines}) == 4


def test_web_addresses_that_differ_in_their_query_are_two_images(tmp_path: Path, export: Export) -> None:
    from maskmill.pipeline.export.names import SourceNames

    names = SourceNames(by_stem=False)
    rows = [
        {"image_id": "https://h/image", "uri": f"https://h/image.jpg?id={number}", "shard": "s", "row": number}
        for number in (1, 2)
    ]
    assert [names.name(row) for row in rows] == ["https://h/image.jpg", "https://h/image-s-000002.jpg"]
    assert names.renamed == 1
