"""What the largest inputs cost in memory, each in a process of its own so that its peak is its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

ROOT = Path(__file__).parents[3]
SIDES = (160, 512)
"""Short and longest side that images are decoded for, in pixels."""


def measure(*arguments: str) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *arguments]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
    measured = json.loads(finished.stdout.splitlines()[-1])
    print(measured)
    return measured


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_a_hundred_megapixels_stay_under_one_and_a_half_gigabytes(tmp_path: Path, file_format: str) -> None:
    peaks = {stage: measure(stage, file_format, str(tmp_path))["peak_bytes"] for stage in ("decode", "model", "encode")}
    assert max(peaks.values()) < 1.5e9


@pytest.mark.slow
def test_ten_thousand_classes_stay_under_four_gigabytes() -> None:
    assert measure("classes")["peak_bytes"] < 4e9


def decode_large_image(file_format: str, directory: str) -> None:
    """Decode 10,000 x 10,000 pixels, as a decoding worker does."""
    import io

    import numpy as np
    import pyarrow as pa
    from PIL import Image

    from maskmill.pipeline.decoding.decode import Decoding
    from maskmill.pipeline.stages.decode import DecodeStage
    from maskmill.pipeline.stages.rows import ENCODED

    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((10_000, 10_000), Image.Resampling.NEAREST).save(stream, file_format)
    row = {"shard": 0, "row": 0, "image_id": "large", "uri": "large", "attempts": 1, "data": stream.getvalue()}
    (decoded,) = DecodeStage(Decoding(), *SIDES)(pa.Table.from_pylist([row], schema=ENCODED))
    assert decoded["width"].to_pylist() == [10_000]
    _write(decoded, directory, "decoded")


def label_large_image(file_format: str, directory: str) -> None:
    """Run the model on what was decoded and make its map of 10,000 x 10,000 labels, as an actor does."""
    from maskmill.model import ModelSpec, Vocabulary
    from maskmill.pipeline.shapes import CLASSES
    from maskmill.pipeline.stages.model import SegmentStage, StageModel

    vocabulary = Vocabulary([entry.name for entry in CLASSES])
    spec = ModelSpec(short_side=SIDES[0], max_long_side=SIDES[1])
    model = StageModel(spec=spec, vocabulary=vocabulary, segments="semantic", storage_option={})
    _write(SegmentStage(model, 1)(_read(directory, "decoded")), directory, "classified")


def encode_large_image(file_format: str, directory: str) -> None:
    """Encode that map, as an encoding worker does."""
    from maskmill.pipeline.output.folder import Output
    from maskmill.pipeline.shapes import CLASSES
    from maskmill.pipeline.stages.encode import EncodeStage

    stage = EncodeStage(Output(directory, {}), "attempt", ["shard"], [entry.name for entry in CLASSES])
    receipts = stage(_read(directory, "classified"))
    assert receipts["failed"].to_pylist() == [0]


def _write(table: pa.Table, directory: str, name: str) -> None:
    with pa.OSFile(f"{directory}/{name}.arrow", "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _read(directory: str, name: str) -> pa.Table:
    # Mapped, as tables of Ray's object store are.
    return pa.ipc.open_file(pa.memory_map(f"{directory}/{name}.arrow")).read_all()


def label_with_many_classes() -> None:
    """Name 640 x 640 pixels with 10,000 classes."""
    import torch

    from maskmill.model import Vocabulary
    from maskmill.model.clip.loading import load_clip
    from maskmill.model.naming.classifier import Classifier
    from maskmill.model.naming.settings import NamingSettings
    from maskmill.model.presets import BUNDLED
    from maskmill.model.segmenter import Segmenter
    from maskmill.model.spec import ModelSpec as Spec
    from maskmill.model.spec import load_proposer
    from maskmill.model.vocabulary import ClassEntry
    from maskmill.pipeline.shapes import draw

    torch.set_num_threads(1)
    entries = [ClassEntry(name=f"red circle {number}", prompts=("a {}",)) for number in range(10_000)]
    classifier = Classifier(load_clip(BUNDLED), Vocabulary(entries), NamingSettings(fusion="clip"))
    segmenter = Segmenter(load_proposer(Spec(short_side=640, max_long_side=640)), classifier)
    (result,) = segmenter([draw(seed=1, index=0)[0]])
    assert result.query_scores.shape[1] == 10_000


WORK = {"decode": decode_large_image, "model": label_large_image, "encode": encode_large_image}

if __name__ == "__main__":
    from maskmill.pipeline.bench.result import peak_bytes

    WORK.get(sys.argv[1], label_with_many_classes)(*sys.argv[2:])
    print(json.dumps({"what": sys.argv[1:3], "peak_bytes": peak_bytes()}))
