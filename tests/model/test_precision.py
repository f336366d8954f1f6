from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from maskmill.model.networks import instructions
from maskmill.model.networks.instructions import cpu_flags, has_bfloat16_instructions, warn_of_slow_precision
from maskmill.model.precision import choose_precision, fastest, measure_precisions
from maskmill.model.spec import ModelSpec, load_proposer

CPU = torch.device("cpu")


@pytest.fixture
def zen_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for bfloat16, as Linux describes it."""
    information = tmp_path / "cpuinfo"
    information.write_text("processor\t: 0\nmodel name\t: AMD EPYC 7763\nflags\t\t: fpu avx2 fma\n")
    monkeypatch.setattr(instructions, "CPU_INFORMATION", information)
    warn_of_slow_precision.cache_clear()


def test_float32_stays_unless_another_is_clearly_faster() -> None:
    assert fastest({"float32": 1.0, "bfloat16": 0.5}) == "bfloat16"
    assert fastest({"float32": 1.0, "bfloat16": 0.95}) == "float32"
    assert fastest({"float32": 1.0, "bfloat16": 0.6, "float16": 0.4}) == "float16"


def test_every_precision_of_a_cpu_is_measured() -> None:
    seconds = measure_precisions(ModelSpec(dtype="auto", device="cpu"))
    assert set(seconds) == {"float32", "bfloat16"}
    assert all(value > 0 for value in seconds.values())


def test_a_model_cannot_be_loaded_before_the_choice() -> None:
    with pytest.raises(ValueError, match="measure"):
        load_proposer(ModelSpec(dtype="auto"))


@pytest.mark.parametrize("flags", ["avx512_bf16", "amx_bf16", "bf16"])
def test_instructions_are_read_from_the_system(flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    information = tmp_path / "cpuinfo"
    information.write_text(f"{'Features' if flags == 'bf16' else 'flags'}\t: fp asimd {flags}\n")
    monkeypatch.setattr(instructions, "CPU_INFORMATION", information)
    assert flags in cpu_flags()
    assert has_bfloat16_instructions()
    monkeypatch.setattr(instructions, "CPU_INFORMATION", tmp_path / "of another system")
    assert has_bfloat16_instructions() is None


@pytest.mark.usefixtures("zen_3")
def test_nothing_is_measured_where_the_instructions_decide() -> None:
    for measure in (False, True):
        choice = choose_precision(ModelSpec(dtype="auto", device="cpu"), measure=measure)
        assert (choice.dtype, choice.seconds_per_image) == ("float32", {})


def test_nothing_is_measured_unless_asked_for() -> None:
    choice = choose_precision(ModelSpec(dtype="auto", device="cpu"), measure=False)
    assert (choice.dtype, choice.seconds_per_image) == ("float32", {})


@pytest.mark.usefixtures("zen_3")
def test_a_slow_choice_is_named_once_with_its_factor(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for dtype in ("float32", "bfloat16", "bfloat16"):
            load_proposer(ModelSpec(dtype=dtype, device="cpu"))
    (message,) = (record.getMessage() for record in caplog.records)
    assert "ten times" in message
    assert "float32" in message
