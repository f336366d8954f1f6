"""Ray workers give the same figures, whatever their number, and also when workers die."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from maskmill.pipeline.cluster.attended import WorkersBrokenError
from maskmill.pipeline.evaluation import distribute
from maskmill.pipeline.evaluation.config import EvaluationConfig
from maskmill.pipeline.evaluation.distribute import evaluate_units
from maskmill.pipeline.evaluation.evaluate import Progress, evaluate
from maskmill.pipeline.evaluation.ground_truth import TruthShard
from maskmill.pipeline.evaluation.protocol import EvaluationError
from maskmill.pipeline.evaluation.unit import UnitEvaluator
from maskmill.pipeline.interruption import InterruptedRunError
from tests.pipeline.evaluation.handmade import THREE, Run, blobs, write_folder
from tests.pipeline.evaluation.here import evaluate_here


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    run = Run(folder / "run", THREE["classes"])
    for shard in range(3):
        run.add(f"s{shard}", {f"{shard}{i}": blobs(rng, 3) for i in range(6)})
    write_folder(folder / "gt", {f"{shard}{i}": blobs(rng, 3) for shard in range(3) for i in range(6)})
    return folder


@pytest.fixture
def settings(data: Path, protocol_file: Path, tmp_path: Path) -> Callable[..., EvaluationConfig]:
    def make(results: str, **changes: object) -> EvaluationConfig:
        values = {
            "output": str(data / "run"),
            "ground_truth": str(data / "gt"),
            "protocol": str(protocol_file),
            "results": str(tmp_path / results),
            "shard_size": 4,
        }
        return EvaluationConfig(**{**values, **changes})

    return make


@pytest.mark.usefixtures("local_ray")
def test_any_number_of_workers_gives_identical_figures(settings: Callable[..., EvaluationConfig]) -> None:
    here = evaluate(settings("here"), evaluate_here).figures
    for workers in (1, 2, 5):  # more workers than CPUs must not wait for ever
        on_ray = partial(evaluate_units, workers=workers, address=None)
        assert evaluate(settings(f"workers{workers}"), on_ray).figures == here


@pytest.mark.usefixtures("local_ray")
def test_a_workers_error_comes_back_as_itself(settings: Callable[..., EvaluationConfig], tmp_path: Path) -> None:
    maps = {f"{shard}{i}": np.full((20, 24), 9, np.uint8) for shard in range(3) for i in range(6)}
    config = settings("bad", ground_truth=str(write_folder(tmp_path / "bad_gt", maps)))
    with pytest.raises(EvaluationError, match="holds 9, which the protocol's 3 classes do not have") as caught:
        evaluate(config, partial(evaluate_units, workers=2, address=None))
    assert type(caught.value) is EvaluationError
    assert "Traceback" not in str(caught.value)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("delay_s", [0.0, 0.3])  # 0.3: while the driver waits for a unit, inside Ray
def test_a_signal_leaves_what_was_counted(
    number: int, delay_s: float, settings: Callable[..., EvaluationConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(UnitEvaluator):
        def __call__(self, unit: TruthShard) -> int:
            time.sleep(1)
            return super().__call__(unit)

    config, on_ray = settings("stopped"), partial(evaluate_units, workers=1, address=None)

    def stop_after_the_second_unit(progress: Progress) -> None:
        if progress.units_done == 2:
            if delay_s:
                threading.Timer(delay_s, os.kill, (os.getpid(), number)).start()
            else:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(distribute, "UnitEvaluator", Slow)
        with pytest.raises(InterruptedRunError) as caught:
            evaluate(config, on_ray, stop_after_the_second_unit)
    assert caught.value.signal_number == number
    assert signal.getsignal(number) is before
    states: list[Progress] = []
    figures = evaluate(config, on_ray, states.append).figures
    assert states[0].units_done >= 2
    assert states[-1].units_done == 5
    assert figures == evaluate(settings("here"), evaluate_here).figures


@pytest.mark.usefixtures("local_ray")
def test_a_unit_that_kills_each_of_its_workers_is_named(
    settings: Callable[..., EvaluationConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deadly(UnitEvaluator):
        def __call__(self, unit: TruthShard) -> int:
            os._exit(1)

    monkeypatch.setattr(distribute, "UnitEvaluator", Deadly)
    monkeypatch.setattr(distribute, "MAX_RETRIES", 0)
    with pytest.raises(WorkersBrokenError, match=r"the workers that compared gt-\S+ \(.*gt\) died 1 times"):
        evaluate(settings("deadly"), partial(evaluate_units, workers=1, address=None))


@pytest.mark.usefixtures("local_ray")
def test_a_worker_that_dies_is_replaced(
    settings: Callable[..., EvaluationConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = tmp_path / "fuse"
    fuse.touch()

    class DiesOnce(UnitEvaluator):
        def __call__(self, unit: TruthShard) -> int:
            if fuse.exists():
                fuse.unlink()
                os._exit(1)
            return super().__call__(unit)

    here = evaluate(settings("here"), evaluate_here).figures
    monkeypatch.setattr(distribute, "UnitEvaluator", DiesOnce)
    assert evaluate(settings("died"), partial(evaluate_units, workers=1, address=None)).figures == here
    assert not fuse.exists()
