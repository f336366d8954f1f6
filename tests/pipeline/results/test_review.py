"""The review queue holds the worst segments, the same ones however the rows are cut into batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from maskmill.pipeline.output.schema import LABELS
from maskmill.pipeline.results.reader import Results, open_results
from maskmill.pipeline.results.review import COLUMNS, REASONS, REVIEW, ReviewQueue, build_queue
from maskmill.pipeline.results.totals import read_figures
from tests.pipeline.written_run import RunSettings, write_run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return open_results(str(write_run(tmp_path_factory.mktemp("review"), RunSettings(images=120))))


def segments_of(results: Results) -> list[dict[str, Any]]:
    return [
        {**{name: row[name][at] for name in ("scores", "stability", "agreement", "areas")}, "row": row, "at": at}
        for shard in results.shard_ids
        for row in results.rows(shard)
        for at in range(len(row["class_ids"]))
    ]


def rows_of(queue: pa.Table, reason: str) -> list[dict[str, Any]]:
    return [row for row in queue.to_pylist() if row["reason"] == reason]


def test_the_queue_holds_the_worst(results: Results) -> None:
    queue = build_queue(results, read_figures(results).class_rows, 10)
    assert queue.schema == REVIEW
    segments = [s for s in segments_of(results) if s["areas"] >= 0.001 * 128 * 128]
    worst: dict[str, float] = {}
    for segment in segments:
        image = segment["row"]["image_id"]
        worst[image] = min(worst.get(image, 1.0), segment["scores"])
    found = rows_of(queue, "low_score")
    assert [row["score"] for row in found] == sorted(worst.values())[:10]
    assert [row["rank"] for row in found] == list(range(1, 11))
    assert all(row["agreement"] == 0 for row in rows_of(queue, "disagreement"))
    areas = [row["area"] for row in rows_of(queue, "disagreement")]
    assert areas == sorted(areas, reverse=True)
    assert min(row["stability"] for row in rows_of(queue, "unstable")) == min(s["stability"] for s in segments)


def test_a_row_of_the_queue_is_the_segment_it_names(results: Results) -> None:
    labels = {(row["shard"], row["row"]): row for shard in results.shard_ids for row in results.rows(shard)}
    for found in build_queue(results, read_figures(results).class_rows, 10).to_pylist():
        row, at = labels[found["shard"], found["row"]], found["segment"]
        assert found["class_name"] == row["class_names"][at]
        assert found["area"] == row["areas"][at]
        assert found["box"] == row["boxes"][at]
        assert found["area_share"] == pytest.approx(row["areas"][at] / (row["width"] * row["height"]))


@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
def test_batches_and_their_order_do_not_matter(results: Results, batch_rows: int) -> None:
    class_rows = read_figures(results).class_rows
    queue = ReviewQueue(class_rows, 12)
    for shard in reversed(results.shard_ids):
        for batch in results.batches(shard, COLUMNS, batch_rows):
            queue.add(batch)
    expected = build_queue(results, class_rows, 12)
    # Images of one shard that are equally bad keep their order; the drawn scores are all different.
    assert queue.table().to_pylist() == expected.to_pylist()


def test_areas_far_from_those_of_their_class_are_found() -> None:
    rng = np.random.default_rng(0)
    areas = [*np.exp2(rng.normal(10, 0.5, 100)).astype(int).tolist(), 60_000, 3]
    rows = [row_with_area(number, area) for number, area in enumerate(areas)]
    batch = pa.Table.from_pylist(rows, schema=LABELS).to_batches()[0]
    class_row = {"segments": 102, "area_p10": 2.0**9.36, "area_p50": 2.0**10, "area_p90": 2.0**10.64}
    queue = ReviewQueue([class_row], 5)
    queue.add(batch)
    assert [row["area"] for row in rows_of(queue.table(), "unusual_area")][:2] == [3, 60_000]
    quiet = ReviewQueue([{**class_row, "segments": 5}], 5)
    quiet.add(batch)
    assert rows_of(quiet.table(), "unusual_area") == []


def row_with_area(number: int, area: int) -> dict[str, Any]:
    single = {"class_ids": [0], "class_names": ["a"], "scores": [0.9], "areas": [area], "boxes": [[0, 0, 1, 1]]}
    quality = {name: [0.9] for name in ("stability", "agreement", "objectness", "margin")}
    image = {"image_id": str(number), "uri": "u", "shard": "s", "row": number, "width": 1000, "height": 1000}
    rest = {"coverage": 0.5, "components": [1], "withheld_segments": 0, "withheld_pixels": 0, "rles": [""]}
    return {**image, **single, **quality, **rest}


def test_a_run_without_segments_has_an_empty_queue(tmp_path: Path) -> None:
    blank = open_results(str(write_run(tmp_path, RunSettings(images=5, blank=True))))
    queue = build_queue(blank, read_figures(blank).class_rows, 10)
    assert queue.num_rows == 0
    assert set(REASONS) == {"low_score", "disagreement", "unstable", "unusual_area"}
