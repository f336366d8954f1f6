"""What every export has in common: names, images, refusals, buckets, and memory that does not grow."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskmill.pipeline.decoding.decode import DEFAULT, read_header
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.export.export import FORMATS, ExportSettings, export_run
from maskmill.pipeline.export.names import Namer, source_name
from maskmill.pipeline.export.stream import exported_file
from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.output.schema import LABELS
from tests.pipeline.export.conftest import Export
from tests.pipeline.written_run import SHAPES_CLASSES, RunSettings, read_labels, write_run

HOSTILE = ['<script>alert("1")</script>', "'quoted', \"twice\"", "🚀", "שלום", "x" * 300, "new\nline: - {yaml}"]


def row(image_id: str, number: int = 0, shard: str = "s") -> dict[str, Any]:
    return {"image_id": image_id, "row": number, "shard": shard}


def test_names_are_safe_and_never_used_twice() -> None:
    ids = ["a", "a", "A", "a-000001", "../../etc/passwd", "/abs/x", "..", "", "q:*?", "x" * 500, "x" * 500]
    ids += ["s/7", "日本"]
    namer = Namer()
    stems = [namer.stem(row(image_id, number)) for number, image_id in enumerate(ids)]
    assert len({stem.casefold() for stem in stems}) == len(ids)
    assert stems[0] == "s/a"
    assert stems[4] == "s/etc/passwd"
    assert stems[11] == "s/7"
    assert stems[12] == "s/日本"
    for stem in stems:
        assert max(len(part.encode()) for part in stem.split("/")) <= 220
        assert ".." not in stem.split("/")
        assert not stem.startswith("/")
    assert Namer().stem(row("a", shard="t")) == "t/a"


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/d/x.tar#a/1.jpg", "a/1.jpg"),
        ("/d/a/1.png", "a/1.png"),
        ("/d/x.parquet#row=7", "a/1"),
        ("https://h/1.webp?sig=x.y", "a/1.webp"),
    ],
)
def test_the_source_name_has_the_extension_of_the_source(uri: str, name: str) -> None:
    assert source_name({"image_id": "a/1", "uri": uri}) == name


def stored(data: bytes) -> tuple[bytes, str]:
    return exported_file(data, read_header(data), DEFAULT)


def test_an_image_on_its_side_is_stored_upright() -> None:
    picture = Image.fromarray(np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = io.BytesIO(), io.BytesIO()
    picture.save(plain, "PNG")
    picture.save(turned, "PNG", exif=exif)
    assert stored(plain.getvalue()) == (plain.getvalue(), ".png")
    data, suffix = stored(turned.getvalue())
    assert suffix == ".png"
    with Image.open(io.BytesIO(data)) as upright:
        assert upright.size == (20, 30)
        assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(picture), 3))


@pytest.mark.parametrize("file_format", FORMATS)
def test_hostile_class_names_come_back_as_they_are(tmp_path: Path, export: Export, file_format: str) -> None:
    classes = [{**entry, "name": name} for entry, name in zip(SHAPES_CLASSES, HOSTILE, strict=False)]
    settings = RunSettings(images=6, classes=classes, class_ids=[number % len(HOSTILE) for number in range(56)])
    folder = export(write_run(tmp_path / "run", settings), file_format)
    assert names_in(folder, file_format) == HOSTILE


def names_in(folder: Path, file_format: str) -> list[str]:
    import pyarrow.parquet as pq
    import yaml

    if file_format in ("coco", "panoptic"):
        path = folder / ("stuff.json" if file_format == "coco" else "panoptic.json")
        return [entry["name"] for entry in json.loads(path.read_text())["categories"]]
    if file_format == "png":
        return [entry["name"] for entry in json.loads((folder / "classes.json").read_text())["classes"]]
    if file_format == "yolo":
        return list(yaml.safe_load((folder / "data.yaml").read_text())["names"].values())
    if file_format == "fiftyone":
        return list(json.loads((folder / "metadata.json").read_text())["default_mask_targets"].values())
    if file_format == "hf":
        metadata = pq.read_schema(folder / "data" / "train-00000.parquet").metadata[b"huggingface"]
        return json.loads(metadata)["info"]["features"]["class_ids"]["feature"]["names"]
    assert file_format == "coco-stuff", "it has ids only"
    ids = {entry["category_id"] for entry in json.loads((folder / "sem_seg_predictions.json").read_text())}
    assert ids <= set(range(len(HOSTILE)))
    return HOSTILE


def test_wrong_usage_says_what_would_be_right(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose from: coco, panoptic"):
        export_run(str(run), str(tmp_path / "x"), ExportSettings(file_format="voc"))
    with pytest.raises(UsageError, match="only to: coco"):
        export_run(str(run), str(tmp_path / "x"), ExportSettings(file_format="png", images_per_file=3))
    with pytest.raises(UsageError, match="holds no run"):
        export_run(str(tmp_path), str(tmp_path / "x"), ExportSettings(file_format="coco"))
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="not empty"):
        export_run(str(run), str(tmp_path), ExportSettings(file_format="coco"))
    assert export_run(str(run), str(tmp_path), ExportSettings(file_format="coco", overwrite=True)).images == 34
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_shards_without_a_marker_are_not_exported(tmp_path: Path) -> None:
    out = write_run(tmp_path, RunSettings(images=40))
    marker = sorted((out / "stats").iterdir())[0]
    marker.unlink()
    rows = read_labels(out)
    assert export_run(str(out), str(tmp_path / "coco"), ExportSettings(file_format="coco")).images == len(rows) == 24


def test_bucket_to_bucket(run: Path, s3_bucket: Any, tmp_path: Path, export: Export) -> None:
    s3_bucket.upload(run, "out")
    for file_format in ("coco", "png"):
        export_run(f"{s3_bucket.uri}/out", f"{s3_bucket.uri}/{file_format}", ExportSettings(file_format=file_format))
        s3_bucket.download(file_format, tmp_path / "down" / file_format)
        local = export(run, file_format)
        files = sorted(path.relative_to(local) for path in local.rglob("*") if path.is_file())
        assert files
        for path in files:
            assert (tmp_path / "down" / file_format / path).read_bytes() == (local / path).read_bytes()


MEASURED = """
import sys
from maskmill.pipeline.bench.result import peak_bytes
from maskmill.pipeline.export.export import ExportSettings, export_run
count = export_run(sys.argv[1], sys.argv[2], ExportSettings(file_format="coco")).images
print(count, peak_bytes() // 2**20)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_200_000_rows_take_less_than_500_mb(tmp_path: Path) -> None:
    import pyarrow as pa

    rng = np.random.default_rng(0)
    out = write_run(tmp_path, RunSettings(images=1))
    output, columns = Output(str(out)), read_labels(out)[0]
    (marker,) = output.names("stats", ".json")
    rows, shards, segments = 50_000, 4, len(columns["areas"])
    for shard in range(shards):
        # Six bits of chance a character, as in real counts, so that the files do not compress to nothing.
        text = rng.integers(48, 112, (rows, segments, 600), dtype=np.uint8).view("S600").astype("U600")[..., 0]
        common = {name: value for name, value in columns.items() if name != "rles"} | {"shard": f"big-{shard}"}
        table = pa.Table.from_pylist(
            [
                {**common, "image_id": f"{n:08d}", "uri": f"s3://b/{n}.jpg", "row": n, "rles": text[n].tolist()}
                for n in range(rows)
            ],
            schema=LABELS,
        )
        output.write_table(f"labels/big-{shard}.parquet", table)
        output.write_bytes(f"stats/big-{shard}.json", output.read_bytes(f"stats/{marker}.json"))
    output.remove(f"stats/{marker}.json")
    command = [sys.executable, "-c", MEASURED, output.uri, str(tmp_path / "coco")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    count, megabytes = map(int, result.stdout.split())
    print(f"{count} rows, {megabytes} MB at most")
    assert count == rows * shards
    assert megabytes < 500, f"{megabytes} MB"
    # One annotation a line: the file is too large to be parsed as a whole here.
    with (tmp_path / "coco" / "stuff.json").open() as lines:
        annotations = sum(line.startswith('{"id":') and '"category_id"' in line for line in lines)
    assert annotations == count * segments
