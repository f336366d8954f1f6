"""The values of a label map are the samples stored in its file, for any number of bits and any colours."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.evaluation.evaluate import Evaluation
from maskmill.pipeline.evaluation.label_maps import decode_label_map
from maskmill.pipeline.training.record_store import open_records
from tests.pipeline.evaluation.handmade import Run, blobs, wide
from tests.pipeline.evaluation.stored import bilevel_file, grey_png, grey_tiff, palette_file

Evaluated = Callable[..., Evaluation]


def labels_below(values: int, seed: int = 0) -> np.ndarray:
    """Return a map of odd size that holds the lowest and the highest value."""
    labels = np.random.default_rng(seed).integers(0, values, (7, 13)).astype(np.uint16)
    labels[0, :2] = 0, values - 1
    return labels


STORED = {
    **{f"grey png {bits}": (grey_png, 2**bits, {"bits": bits}) for bits in (1, 2, 4, 8, 16)},
    **{f"palette png {bits}": (palette_file, 2**bits, {"file_format": "PNG", "bits": bits}) for bits in (1, 2, 4, 8)},
    **{
        f"tiff {bits} zero is white {white} big endian {big}": (
            grey_tiff,
            2**bits,
            {"bits": bits, "zero_is_white": white, "big_endian": big},
        )
        for bits in (1, 2, 4, 8, 16)
        for white in (False, True)
        for big in (False, True)
        if not (bits == 16 and white)  # Pillow reads no such file
    },
    **{f"palette {kind}": (palette_file, 256, {"file_format": kind}) for kind in ("TIFF", "BMP", "GIF")},
    **{f"one bit {kind}": (bilevel_file, 2, {"file_format": kind}) for kind in ("PNG", "TIFF", "BMP")},
    "one bit TIFF by libtiff": (bilevel_file, 2, {"file_format": "TIFF", "compression": "group4"}),
}


@pytest.mark.parametrize("name", STORED)
def test_values_are_the_samples_stored(name: str) -> None:
    write, values, settings = STORED[name]
    labels = labels_below(values)
    np.testing.assert_array_equal(decode_label_map(write(labels, **settings), name), labels)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("form", ["folder", "beside", "tar", "parquet", "predictions"])
def test_a_perfect_map_of_few_bits_scores_100(
    form: str, bits: int, run: Run, evaluated: Evaluated, tmp_path: Path
) -> None:
    maps = {f"{i:02d}": blobs(np.random.default_rng(i), 3) for i in range(3)}
    stored = {image_id: grey_png(labels, bits) for image_id, labels in maps.items()}
    run.add("s", {image_id: wide(labels) for image_id, labels in maps.items()})
    folder = tmp_path / "gt"
    folder.mkdir()
    for image_id, data in stored.items():
        (folder / f"{image_id}{'.seg.png' if form in ('beside', 'tar') else '.png'}").write_bytes(data)
        if form in ("beside", "tar"):
            Image.new("RGB", (24, 20)).save(folder / f"{image_id}.jpg")
    truth = folder
    if form == "tar":
        truth = tmp_path / "gt.tar"
        with tarfile.open(truth, "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name)
    elif form == "parquet":
        truth = tmp_path / "gt.parquet"
        pq.write_table(pa.table({"image_id": list(stored), "label_map": list(stored.values())}), truth)
    output = folder if form == "predictions" else run.folder
    assert evaluated(output, truth).figures["miou"] == 100


@pytest.mark.parametrize("bits", [2, 4])
def test_training_reads_the_same_values(bits: int, tmp_path: Path) -> None:
    labels = labels_below(2**bits)
    (tmp_path / "data").mkdir()
    Image.new("RGB", (13, 7)).save(tmp_path / "data/a.png")
    (tmp_path / "data/a.seg.png").write_bytes(grey_png(labels, bits))
    np.testing.assert_array_equal(open_records(str(tmp_path / "data"), tmp_path / "cache").label(0), labels)


def test_label_maps_on_their_side_are_named_before_training(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, exif in (("a", Image.Exif()), ("b", turned), ("c", turned)):
        Image.new("RGB", (13, 7)).save(data / f"{name}.jpg", exif=exif)
        (data / f"{name}.seg.png").write_bytes(grey_png(labels_below(4), 8))
    with pytest.raises(UsageError, match=r"2 of 3 label maps .*b\.jpg \(label map 13x7, image 7x13\).*2 have swapped"):
        open_records(str(data), tmp_path / "cache")
