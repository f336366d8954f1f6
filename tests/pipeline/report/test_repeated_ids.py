"""Where several images have the same id, the report never mixes up their figures, and its commands find each image."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa

from maskmill.pipeline.report.build import collect
from maskmill.pipeline.report.evaluation import _ranked_images
from maskmill.pipeline.report.sample import read_sample
from maskmill.pipeline.results.reader import open_results
from tests.pipeline.labelled_files import encoded, label_files, picture


def test_figures_and_commands_belong_to_the_image_shown(tmp_path: Path) -> None:
    for number, names in enumerate([["a.png", "b.png"], ["a.png"]]):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            for name in names:
                data = encoded(picture())
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    results = open_results(str(label_files(str(tmp_path / "*.tar"), tmp_path / "out")))
    first, second = results.shard_ids
    table = pa.table({"image_id": ["a", "b", "a"], "miou": [0.1, 0.5, 0.9]})
    results.output.write_table("evaluation/images/0.parquet", table)
    assert _ranked_images(results.output, read_sample(results)) == [((first, 1), 0.5)]
    shutil.rmtree(tmp_path / "out" / "evaluation")
    commands = {key: card.command for key, card in collect(results).cards.items()}
    assert commands[first, 0].endswith(f"show --shard {first} --row 0 {results.output.uri} a")
    assert commands[second, 0].endswith(f"show --shard {second} --row 0 {results.output.uri} a")
