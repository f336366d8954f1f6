"""Statistics are sums: any sharding gives the same figures, and the figures are those of the rows."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest

from maskmill.pipeline.output.schema import CLASS_STATS, ERRORS, LABELS
from maskmill.pipeline.output.statistics import (
    COVERAGE_EDGES,
    SCORE_EDGES,
    RunSums,
    class_stats_table,
    merge,
    percentile,
    sums_of_tables,
)

NAMES = ["cat", "dog", "grass", "never"]


def label_row(row: int, rng: np.random.Generator) -> dict[str, object]:
    classes = sorted(rng.choice(3, size=rng.integers(1, 4), replace=False).tolist())
    count = len(classes)
    return {
        "image_id": f"{row}",
        "uri": f"x/{row}.jpg",
        "shard": "s",
        "row": row,
        "width": 100,
        "height": 50,
        "coverage": row / 40,
        "class_ids": classes,
        "class_names": [NAMES[c] for c in classes],
        # Eighths add up without rounding, so that sums can be compared exactly.
        "scores": (rng.integers(0, 9, count) / 8).tolist(),
        "areas": rng.integers(1, 1000, count).tolist(),
        "boxes": [[0, 0, 1, 1]] * count,
        "stability": [0.5] * count,
        "agreement": rng.integers(0, 2, count).astype(float).tolist(),
        "objectness": [1.0] * count,
        "margin": [0.5] * count,
        "components": [1] * count,
        "withheld_segments": row % 2,
        "withheld_pixels": row % 2 * 10,
        "rles": [""] * count,
    }


@pytest.fixture
def labels() -> pa.Table:
    rng = np.random.default_rng(5)
    return pa.Table.from_pylist([label_row(row, rng) for row in range(40)], schema=LABELS)


def error_table(count: int) -> pa.Table:
    row = dict.fromkeys(ERRORS.names, "x") | {"row": 0, "attempts": 1, "stage": "decode", "error_class": "truncated"}
    return pa.Table.from_pylist([row] * count, schema=ERRORS)


@pytest.mark.parametrize("cuts", [[0, 40], [0, 1, 2, 40], [0, 13, 13, 27, 40]])
def test_any_sharding_gives_the_same_sums(labels: pa.Table, cuts: list[int]) -> None:
    whole = sums_of_tables(labels, error_table(3))
    parts = [sums_of_tables(labels[a:b], error_table(0)) for a, b in itertools.pairwise(cuts)]
    parts.append(sums_of_tables(labels[:0], error_table(3)))
    assert merge(reversed(parts)).to_dict() == whole.to_dict()


def test_sums_survive_json(labels: pa.Table) -> None:
    sums = sums_of_tables(labels, error_table(2))
    assert RunSums.from_dict(json.loads(json.dumps(sums.to_dict()))) == sums


def test_class_stats_count_what_the_rows_say(labels: pa.Table) -> None:
    table = class_stats_table(sums_of_tables(labels, error_table(0)), NAMES, [True, None, False, None])
    assert table.schema == CLASS_STATS
    rows = {row["class_name"]: row for row in table.to_pylist()}
    dogs = [
        (score, area)
        for row in labels.to_pylist()
        for name, score, area in zip(row["class_names"], row["scores"], row["areas"], strict=True)
        if name == "dog"
    ]
    assert rows["dog"]["segments"] == rows["dog"]["images"] == len(dogs)
    assert rows["dog"]["pixels"] == sum(area for _, area in dogs)
    assert rows["dog"]["score_mean"] == pytest.approx(np.mean([score for score, _ in dogs]))
    assert rows["dog"]["pixel_share"] == pytest.approx(rows["dog"]["pixels"] / (40 * 100 * 50))
    assert rows["never"]["images"] == 0
    assert rows["never"]["score_mean"] is None
    assert rows["never"]["co_occurring"] == []
    assert set(rows["dog"]["co_occurring"]) <= {"cat", "grass"}


def test_every_labelled_image_is_in_the_coverage_histogram(labels: pa.Table) -> None:
    bins = sums_of_tables(labels, error_table(3)).coverage_bins
    expected, _ = np.histogram(labels["coverage"].to_numpy().astype(np.float64), COVERAGE_EDGES)
    assert [bins[position] for position in range(len(expected))] == expected.tolist()
    full = sums_of_tables(
        labels.set_column(6, LABELS.field("coverage"), pa.array([1.0] * 40, pa.float32())), error_table(0)
    )
    assert full.coverage_bins == {len(expected) - 1: 40}


def test_percentiles_are_within_a_bin_of_numpys() -> None:
    values = np.random.default_rng(0).beta(2, 5, 5000)
    bins, counts = np.unique(np.digitize(values, SCORE_EDGES) - 1, return_counts=True)
    histogram = {int(b): int(c) for b, c in zip(bins, counts, strict=True)}
    for share in (0.1, 0.5, 0.9):
        found = percentile(histogram, SCORE_EDGES, share)
        assert found == pytest.approx(np.quantile(values, share), abs=0.01)
    assert percentile({}, SCORE_EDGES, 0.5) is None
