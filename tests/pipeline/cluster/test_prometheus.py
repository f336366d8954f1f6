"""Metrics take names of any script, keep them apart, and never end the work."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskmill.pipeline.cluster import observing as module
from maskmill.pipeline.cluster.observing import observing
from maskmill.pipeline.cluster.prometheus import TAG_LENGTH, RunMeter, StageMeter, tag_of
from maskmill.pipeline.output.statistics import ClassSums, RunSums

AWKWARD = [
    "猫",
    "🐈‍⬛",
    "éléphant",
    "قطة",
    "ab\u202ecd",
    "back\\slash",
    "two\nlines",
    "x" * 300,
    "猫" * 300,
    "\x00",
    " ",
]


@given(st.text(st.characters()))
def test_a_tag_is_ascii_of_bounded_length(text: str) -> None:
    tag = tag_of(text)
    assert tag.isascii()
    assert len(tag) <= TAG_LENGTH
    assert tag.isprintable()


@given(st.lists(st.text(st.characters()), unique=True))
def test_different_names_have_different_tags(names: list[str]) -> None:
    assert len({tag_of(name) for name in names}) == len(names)


def test_tags_stay_readable() -> None:
    assert tag_of("traffic light") == "traffic light"
    assert tag_of("café") == "caf\\xe9"
    assert tag_of("caf\\xe9") == "caf\\\\xe9"
    assert tag_of("x" * 201) != tag_of("x" * 202)


def sums(classes: int) -> RunSums:
    found = RunSums()
    found.errors["read/猫"] = 1
    for class_id in range(classes):
        found.classes[class_id] = ClassSums(segments=1)
    return found


def test_ray_takes_every_tag(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_failed", set())
    meter = RunMeter(AWKWARD)
    meter.committed(sums(len(AWKWARD)), 10, 10)
    meter.waiting(1, 1)
    StageMeter("猫").add(1, 1.0)
    assert caplog.records == []


def test_what_ray_refuses_is_logged_once_and_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_failed", set())
    meter = RunMeter([])  # no name for any class: an IndexError inside
    for _ in range(3):
        meter.committed(sums(1), 10, 10)
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == 1
    assert "the metrics of the run failed and is incomplete; the work goes on: IndexError" in messages[0]


def test_signals_are_no_observation() -> None:
    with pytest.raises(KeyboardInterrupt), observing("a signal"):
        raise KeyboardInterrupt
