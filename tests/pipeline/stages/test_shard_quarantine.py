"""The watch over the reading of a shard: what counts as its fault, and what does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from maskmill.pipeline.sources import ImageRecord, Shard, ShardError
from maskmill.pipeline.stages.quarantine import EXIT_OVERRAN, Trail
from maskmill.pipeline.stages.shard_quarantine import ShardQuarantine

SHARD = Shard(shard_id="s", kind="tar", uri="s.tar", location="s.tar", size_bytes=1, version="1")


class Died(BaseException):
    """Stands for the end of the process: nothing tidies up after it."""


def records(kills_at: int | None = None) -> Iterator[ImageRecord]:
    for number in range(6):
        if number == kills_at:
            raise Died
        yield ImageRecord(image_id=str(number), uri="u", row=number, data=b"x")


class DeadTrail:
    """The trail as a worker sees it that dies with the first error: its last words never arrive."""

    def __init__(self, trail: Trail) -> None:
        self.trail = trail

    def begin(self, keys, alone):  # type: ignore[no-untyped-def]
        return self.trail.begin(keys, alone)

    def end(self, keys):  # type: ignore[no-untyped-def]
        if sys.exc_info()[0] is not Died:
            self.trail.end(keys)

    def overran(self, keys):  # type: ignore[no-untyped-def]
        self.trail.overran(keys)


def read(trail: Trail, kills_at: int | None, per_block: int = 4) -> list[str]:
    """One attempt at the shard, in blocks with a pause after each."""
    reading = ShardQuarantine(DeadTrail(trail), 60.0)(0, SHARD)
    ids = []
    for record in reading.records(records(kills_at)):
        ids.append(record.image_id)
        if len(ids) % per_block == 0:
            reading.pause()
    return ids


@pytest.mark.parametrize("kills_at", [0, 3, 4, 5])
def test_four_deaths_at_one_record_end_the_shard_there(kills_at: int) -> None:
    trail = Trail()
    for _ in range(4):
        with pytest.raises(Died):
            read(trail, kills_at)
    with pytest.raises(ShardError, match=f"killed its worker 2 times .after {kills_at} images"):
        read(trail, kills_at)
    assert trail.deaths == 4
    assert not trail.open


def test_deaths_at_different_places_are_nobodys_fault() -> None:
    trail = Trail()
    for kills_at in (0, 5, 2, 4):
        with pytest.raises(Died):
            read(trail, kills_at)
    assert read(trail, None) == [str(number) for number in range(6)]


def test_a_death_between_two_blocks_is_not_the_readers() -> None:
    trail = Trail()
    reading = ShardQuarantine(trail, 60.0)(0, SHARD)
    next(reading.records(records()))
    reading.pause()
    assert not trail.open


HANGING = """
import time
from maskmill.pipeline.stages.quarantine import Trail
from maskmill.pipeline.stages.shard_quarantine import ShardQuarantine
from maskmill.pipeline.sources import Shard

def records():
    {body}
    yield

shard = Shard(shard_id="s", kind="{kind}", uri="u", location="{location}", size_bytes=1, version="1")
for _ in ShardQuarantine(Trail(), 0.3)(0, shard).records(records()):
    pass
"""


@pytest.mark.parametrize(
    ("body", "kind", "location", "code"),
    [
        ("while True: pass", "tar", "s3://b/s.tar", EXIT_OVERRAN),
        ("while True: pass", "parquet", "s.parquet", EXIT_OVERRAN),
        ("time.sleep(60)", "tar", "s.tar", EXIT_OVERRAN),
        ("time.sleep(1.5)", "tar", "s3://b/s.tar", 0),
        ("time.sleep(1.5)", "manifest", "s.txt", 0),
    ],
)
def test_computing_counts_and_waiting_for_a_store_does_not(body: str, kind: str, location: str, code: int) -> None:
    program = HANGING.format(body=body, kind=kind, location=location)
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == code
