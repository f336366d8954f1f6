"""Evaluations with other shards, another order, interruptions or changed inputs give the figures of a single one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from maskmill.pipeline.evaluation.config import EvaluationConfig
from maskmill.pipeline.evaluation.evaluate import Evaluation, evaluate
from maskmill.pipeline.evaluation.ground_truth import TruthShard
from maskmill.pipeline.evaluation.unit import Comparison
from tests.pipeline.evaluation.handmade import PAIRS, THREE, Run, panoptic_json, write_folder
from tests.pipeline.evaluation.here import evaluate_here

Evaluated = Callable[..., Evaluation]


def whole(evaluated: Evaluated, folder: Path, segments: str) -> tuple[dict[str, object], dict[str, object]]:
    """Return the figures of PAIRS with one shard on each side."""
    return sharded(evaluated, folder, [list(PAIRS)], list(PAIRS), len(PAIRS), segments)


def sharded(
    evaluated: Evaluated, folder: Path, shards: list[list[str]], order: list[str], unit_size: int, segments: str
) -> tuple[dict[str, object], dict[str, object]]:
    run = Run(folder / "run", THREE["classes"], segments)
    for number, names in enumerate(shards):
        run.add(f"s{number}", {name: PAIRS[name][1] for name in names}, scores=0.3)
    # Units are made from the sorted folder, so other names put other images into the same unit.
    truth = write_folder(folder / "gt", {f"{order.index(name):02d}/{name}": PAIRS[name][0] for name in PAIRS})
    figures = evaluated(run.folder, truth, shard_size=unit_size).figures
    tables = pq.read_table(run.folder / "evaluation/per_class.parquet").to_pylist()
    return {key: value for key, value in figures.items() if key != "fingerprint"}, {"rows": tables}


@pytest.mark.parametrize("segments", ["semantic", "query"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(list(PAIRS)), cuts=st.sets(st.integers(1, 11)), unit_size=st.integers(1, 13))
def test_any_sharding_and_order_gives_identical_figures(
    segments: str,
    order: list[str],
    cuts: set[int],
    unit_size: int,
    evaluated: Evaluated,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    edges = [0, *sorted(cuts), len(order)]
    shards = [order[a:b] for a, b in pairwise(edges)]
    truth_order = order[::-1]
    found = sharded(evaluated, tmp_path_factory.mktemp("cut"), shards, truth_order, unit_size, segments)
    assert found == whole(evaluated, tmp_path_factory.mktemp("whole"), segments)


class Recorder:
    """Counts units in this process, remembers them, and stops like a killed run after ``limit`` units."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.done: list[str] = []

    def __call__(self, comparison: Comparison, units: Sequence[TruthShard]) -> Iterator[int]:
        for unit, count in zip(units, evaluate_here(comparison, units), strict=True):
            self.done.append(unit.part_id)
            yield count
            if len(self.done) == self.limit:
                raise KeyboardInterrupt


@pytest.fixture
def resumable(run: Run, tmp_path: Path, protocol_file: Path) -> tuple[Run, EvaluationConfig]:
    run.add("s", {name: pred for name, (_, pred) in PAIRS.items()})
    truth = write_folder(tmp_path / "gt", {name: gt for name, (gt, _) in PAIRS.items()})
    config = EvaluationConfig(
        output=str(run.folder), ground_truth=str(truth), protocol=str(protocol_file), shard_size=3
    )
    return run, config


def test_an_interrupted_evaluation_continues(resumable: tuple[Run, EvaluationConfig], tmp_path: Path) -> None:
    _, config = resumable
    first, second, third = Recorder(limit=2), Recorder(), Recorder()
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, first)
    resumed = evaluate(config, second)
    assert len(first.done) == 2
    assert len(second.done) == 2
    assert not set(first.done) & set(second.done)
    assert evaluate(config, third).figures == resumed.figures
    assert third.done == []
    whole = evaluate(config.model_copy(update={"results": str(tmp_path / "fresh")}), evaluate_here)
    assert whole.figures == resumed.figures


def test_a_torn_part_is_never_read(resumable: tuple[Run, EvaluationConfig]) -> None:
    run, config = resumable
    whole = evaluate(config, evaluate_here).figures
    part = sorted((run.folder / "evaluation/_parts").glob("*.json"))[0]
    assert not list(part.parent.glob(".*")), "temporary files are renamed or removed"
    part.unlink()  # the part is written last, so without it the unit is not done, even if its table exists
    recorder = Recorder()
    assert evaluate(config, recorder).figures == whole
    assert recorder.done == [part.stem]


@pytest.mark.parametrize("change", ["labels", "truth", "protocol", "setting", "overwrite"])
def test_what_changed_is_counted_again(
    change: str, resumable: tuple[Run, EvaluationConfig], protocol_file: Path
) -> None:
    run, config = resumable
    evaluate(config, evaluate_here)
    recounted = 4
    if change == "labels":
        run.add("s", {name: gt for name, (gt, _) in PAIRS.items()})
    elif change == "truth":
        write_folder(Path(config.ground_truth), {"00": PAIRS["05"][0]})
        recounted = 1
    elif change == "protocol":
        protocol_file.write_text(json.dumps({**THREE, "ignore_label": 254}))
    elif change == "setting":
        config = config.model_copy(update={"boundary": False})
    else:
        config = config.model_copy(update={"overwrite": True})
    recorder = Recorder()
    found = evaluate(config, recorder)
    assert len(recorder.done) == recounted
    if change == "labels":
        assert found.figures["miou"] == 100
    if change == "setting":
        assert found.figures["boundary_f"] is None


def test_a_changed_panoptic_png_is_counted_again(
    run: Run, tmp_path: Path, protocol_file: Path, evaluated: Evaluated
) -> None:
    run.add("s", {name: pred for name, (_, pred) in PAIRS.items()})
    path = panoptic_json(tmp_path, {name: gt for name, (gt, _) in PAIRS.items()})
    config = EvaluationConfig(output=str(run.folder), ground_truth=str(path), protocol=str(protocol_file), shard_size=3)
    before = evaluate(config, evaluate_here).figures
    png = tmp_path / "panoptic/05.png"
    Image.open(png).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(png)
    recorder = Recorder()
    assert evaluate(config, recorder).figures["miou"] != before["miou"]
    assert len(recorder.done) == 1


def test_another_cut_leaves_no_tables_behind(resumable: tuple[Run, EvaluationConfig]) -> None:
    run, config = resumable
    evaluate(config, evaluate_here)
    evaluate(config.model_copy(update={"shard_size": 5}), evaluate_here)
    images = pq.read_table(run.folder / "evaluation/images")
    assert sorted(images["image_id"].to_pylist()) == list(PAIRS)


def test_nothing_needs_a_local_file_system(resumable: tuple[Run, EvaluationConfig], tmp_path: Path) -> None:
    _, config = resumable
    expected = evaluate(config, evaluate_here).figures
    memory = fsspec.filesystem("memory")
    root = f"/{tmp_path.name}"
    memory.put(f"{tmp_path}/", root, recursive=True)
    memory.rm(f"{root}/run/evaluation", recursive=True)
    remote = config.model_copy(update={"output": f"memory:/{root}/run", "ground_truth": f"memory:/{root}/gt"})
    found = evaluate(remote, evaluate_here).figures
    recorder = Recorder()
    again = evaluate(remote, recorder).figures
    assert recorder.done == []
    for figures in (found, again):
        assert {key: value for key, value in figures.items() if key != "fingerprint"} == {
            key: value for key, value in expected.items() if key != "fingerprint"
        }
    assert memory.exists(f"{root}/run/evaluation/evaluation.json")
