"""A failing batch is halved until only the rows at fault fail; what is not the data's fault is raised."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.stages import guard
from maskmill.pipeline.stages.guard import run_guarded


def test_only_the_bad_rows_fail() -> None:
    calls = []

    def work(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        if 5 in items or 11 in items:
            raise ValueError("cannot do this one")
        return [item * 10 for item in items]

    results = run_guarded(range(16), work, "propose")
    assert [r for r in results if not isinstance(r, BadImageError)] == [n * 10 for n in range(16) if n not in (5, 11)]
    for position in (5, 11):
        error = results[position]
        assert isinstance(error, BadImageError)
        assert (error.stage, error.error_class) == ("propose", "ValueError")
    assert len(calls) < 16


def test_a_bad_image_keeps_its_own_stage_and_class() -> None:
    def work(items: Sequence[int]) -> list[int]:
        raise BadImageError("decode", "truncated", "cut short")

    (error,) = run_guarded([1], work, "propose")
    assert isinstance(error, BadImageError)
    assert error.error_class == "truncated"


def test_exhausted_gpu_memory_halves_the_batch_and_loses_nothing() -> None:
    def work(items: Sequence[int]) -> list[int]:
        if len(items) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(items)

    assert run_guarded(range(10), work, "classify") == list(range(10))


def test_gpu_memory_that_another_uses_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MEMORY_PAUSES_S", (0.01, 0.01))
    tried: list[int] = []

    def work(items: Sequence[int]) -> list[int]:
        tried.append(len(items))
        if len(tried) < 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(items)

    assert run_guarded(range(2), work, "classify") == [0, 1]
    assert tried == [2, 1, 1, 1, 1]


def test_a_row_too_large_for_the_gpu_is_raised_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MEMORY_PAUSES_S", (0.01, 0.01))

    def work(items: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        run_guarded(range(4), work, "classify")


@pytest.mark.parametrize("error", [PermissionError("no"), ConnectionResetError("gone")])
def test_network_and_permission_errors_are_raised(error: Exception) -> None:
    def work(items: Sequence[int]) -> list[int]:
        raise error

    with pytest.raises(type(error)):
        run_guarded(range(4), work, "decode")


def test_a_stage_that_loses_rows_is_a_defect_not_a_result() -> None:
    with pytest.raises(RuntimeError, match="2 results for 4 rows"):
        run_guarded(range(4), lambda items: list(items)[:2], "encode")


def test_a_bad_image_is_a_row_though_its_decoder_raised_what_looks_like_a_broken_connection() -> None:
    """Pillow says so of a GIF without a picture, and an archive that ends too soon does."""

    def work(items: Sequence[int]) -> list[int]:
        raise BadImageError("decode", "truncated", "no picture") from EOFError("image not found in GIF frame")

    (error,) = run_guarded([1], work, "decode")
    assert isinstance(error, BadImageError)
