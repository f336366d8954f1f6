"""The history of attempts and what they cost: how each end is written down, and what a reader makes of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from maskmill.jobs.console import cost_text
from maskmill.jobs.history import table_lines
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.interruption import InterruptedRunError
from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.output.lease import held_lease
from maskmill.pipeline.run.costs import cost_of
from maskmill.pipeline.run.history import Attempt, new_attempt, read_history, recorded, write_attempt


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(str(tmp_path))


def test_a_cost_is_hours_and_a_price_per_thousand() -> None:
    cost = cost_of(
        gpu_seconds=7200.0, cpu_seconds=1800.0, bytes_read=10, bytes_written=5, images=4000, price_per_gpu_hour=1.5
    )
    assert (cost.gpu_hours, cost.cpu_hours, cost.price, cost.price_per_1000_images) == (2.0, 0.5, 3.0, 0.75)


@pytest.mark.parametrize(("images", "price", "expected"), [(0, 1.5, (3.0, None)), (10, None, (None, None))])
def test_without_images_or_a_price_there_is_none(
    images: int, price: float | None, expected: tuple[float | None, float | None]
) -> None:
    sums = {"gpu_seconds": 7200.0, "cpu_seconds": 0.0, "bytes_read": 0, "bytes_written": 0}
    cost = cost_of(**sums, images=images, price_per_gpu_hour=price)
    assert (cost.price, cost.price_per_1000_images) == expected


def end_by(output: Output, error: BaseException | None) -> Attempt:
    with recorded(output, new_attempt("r")) as attempt:
        attempt.outcome = "complete"
        if error is not None:
            raise error
    return attempt


@pytest.mark.parametrize(
    ("error", "outcome", "named"),
    [
        (InterruptedRunError(signal.SIGTERM), "interrupted", "InterruptedRunError"),
        (ConnectionError("https://user:s3cret@host/bucket"), "failed", "ConnectionError"),
        (KeyboardInterrupt(), "failed", "KeyboardInterrupt"),
    ],
)
def test_a_bad_end_is_written_down_without_what_its_message_may_hold(
    output: Output, error: BaseException, outcome: str, named: str
) -> None:
    with pytest.raises(type(error)):
        end_by(output, error)
    (attempt,) = read_history(output.uri)
    assert (attempt.outcome, attempt.error) == (outcome, named)
    assert attempt.seconds is not None
    (path,) = Path(output.uri, "runs").iterdir()
    assert "s3cret" not in path.read_text()


def test_running_and_killed_are_told_apart_by_the_lease(output: Output) -> None:
    killed, running = new_attempt("r"), new_attempt("r")
    running.started_at += 1
    write_attempt(output, killed)
    write_attempt(output, running)
    with held_lease(output, running.attempt, take_over=False):
        assert [attempt.outcome for attempt in read_history(output.uri)] == ["killed", "running"]
    assert [attempt.outcome for attempt in read_history(output.uri)] == ["killed", "killed"]


def test_people_get_a_table_and_a_line_of_costs(output: Output) -> None:
    attempt = end_by(output, None)
    attempt.shards_new, attempt.shards_changed, attempt.shards_done, attempt.images = 3, 1, 4, 4000
    attempt.vanished = ["a", "b"]
    attempt.cost = cost_of(
        gpu_seconds=7200.0,
        cpu_seconds=1800.0,
        bytes_read=2 * 10**9,
        bytes_written=10**7,
        images=4000,
        price_per_gpu_hour=1.5,
    )
    write_attempt(output, attempt)
    heading, row = table_lines(read_history(output.uri))
    assert heading.split("  ")[0] == "started (UTC)"
    for cell in ("complete", "4 of 4 (1 changed)", "4,000", "2.000", "3.00"):
        assert cell in row
    assert cost_text(attempt.to_dict()["cost"]) == (
        "this attempt: 2.00 GPU-hours, 0.50 CPU-hours, read 2.00 GB, wrote 0.01 GB; price 3.00, 0.7500 per 1,000 images"
    )
    assert json.loads(output.read_bytes(f"runs/{attempt.attempt}.json"))["vanished"] == ["a", "b"]


def test_no_history_is_wrong_usage(output: Output) -> None:
    with pytest.raises(UsageError, match="has no history"):
        read_history(output.uri)
