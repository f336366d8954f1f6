"""Reads how far a run is, from run.json and the markers of its shards."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskmill.pipeline.output.folder import RUN_FILE, Output, no_run
from maskmill.pipeline.output.markers import marked_shards, read_marker_heads
from maskmill.pipeline.storage.files import StorageOptions

RATE_WINDOW = 50
"""The rate is that of this many latest commits, so that a resumed run shows its present speed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Counts of a run. errors: "stage/class" -> images. skipped_files: ending -> files.

    images_per_s and eta_s are None until two shards are committed.
    """

    run_id: str
    shards: int
    shards_done: int
    images: int
    labelled: int
    failed: int
    errors: dict[str, int]
    images_per_s: float | None
    eta_s: float | None
    last_commit_age_s: float | None
    skipped_files: dict[str, int]

    @property
    def shards_pending(self) -> int:
        """Return how many shards have no marker."""
        return self.shards - self.shards_done


def read_status(output_uri: str, storage_options: StorageOptions | None = None) -> Status:
    """Read run.json and the markers. Raises UsageError if there is no run."""
    output = Output(output_uri, storage_options)
    run = output.read_json(RUN_FILE)
    if run is None:
        raise no_run(output_uri)
    found = read_marker_heads(output, marked_shards(output))
    markers = [marker for marker in found if "sums" in marker]  # the folder may hold other JSON files of a user
    errors: Counter[str] = Counter()
    for marker in markers:
        errors.update(marker["sums"]["errors"])
    images_per_s, shards_per_s = _rates(markers)
    # While a run cuts its input into other shards, the output has markers of the old and of the new shards.
    shards = max(run["shards"], len(markers))
    return Status(
        run_id=run["run_id"],
        shards=shards,
        shards_done=len(markers),
        images=sum(m["sums"]["labelled"] + m["sums"]["failed"] for m in markers),
        labelled=sum(m["sums"]["labelled"] for m in markers),
        failed=sum(m["sums"]["failed"] for m in markers),
        errors=dict(errors.most_common()),
        images_per_s=images_per_s,
        eta_s=(shards - len(markers)) / shards_per_s if shards_per_s else None,
        last_commit_age_s=time.time() - max(m["committed_at"] for m in markers) if markers else None,
        skipped_files=run.get("skipped", {}),
    )


def _rates(markers: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Return images and shards per second over the latest commits, None if there are too few commits."""
    recent = sorted(markers, key=lambda marker: marker["committed_at"])[-RATE_WINDOW:]
    if len(recent) < 2:
        return None, None
    span_s = recent[-1]["committed_at"] - recent[0]["committed_at"]
    if span_s <= 0:
        return None, None
    images = sum(marker["sums"]["labelled"] + marker["sums"]["failed"] for marker in recent[1:])
    return images / span_s, (len(recent) - 1) / span_s
