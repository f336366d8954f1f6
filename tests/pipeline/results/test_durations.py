"""Durations are written in their two largest units."""

from __future__ import annotations

import pytest

from maskmill.pipeline.results.durations import duration_text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7500, "2 h 05 min"), (273600, "3 d 4 h")],
)
def test_durations_are_said_as_people_do(seconds: float, words: str) -> None:
    assert duration_text(seconds) == words
