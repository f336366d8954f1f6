"""Checks and marks the folder an evaluation writes to: apart from what it reads, and without replacing other files."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.evaluation.config import EvaluationConfig
from maskmill.pipeline.evaluation.unit import IMAGES, IMAGES_SCHEMA, PARTS
from maskmill.pipeline.evaluation.write import CONFUSION, FIGURES, PER_CLASS, SUMMARY
from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.output.ownership import FILES, FOLDERS, claim, has_keys, is_claimed, some_names
from maskmill.pipeline.storage.addresses import is_inside
from maskmill.pipeline.storage.files import public_uri
from maskmill.pipeline.storage.writable import check_writable

COMMAND = "evaluate"
_PART_KEYS = {"fingerprint", "matched", "sums"}


def claim_results(results: Output, config: EvaluationConfig, *, of_run: bool) -> None:
    """Check the folder of the results, and mark it as an evaluation's. of_run: whether a run is evaluated.

    Raises UsageError if the folder is inside the ground truth, the predictions or the files of a run, cannot be written
    to, or holds files of other origin under the names that an evaluation writes.
    """
    shown = public_uri(results.uri)
    predictions = [f"{config.output}/{name}" for name in (*FOLDERS, *FILES)] if of_run else [config.output]
    for place in (config.ground_truth, *predictions):
        if is_inside(results.uri, place):
            raise UsageError(
                f"the results {shown!r} would lie in {public_uri(place)!r}, which is read; name other --results"
            )
    check_writable(results.uri, results.storage_options, what="the results")
    if is_claimed(results, COMMAND):
        return
    entries = results.entries()
    in_the_way = sorted(set(entries) & {FIGURES, PER_CLASS, CONFUSION, SUMMARY, IMAGES, PARTS})
    if in_the_way and not _holds_an_evaluation(results):
        raise UsageError(
            f"{shown} holds files of other origin under names that an evaluation uses: {some_names(in_the_way)}. They "
            "are not replaced; name another place"
        )
    claim(results, COMMAND)


def _holds_an_evaluation(results: Output) -> bool:
    """Return whether an evaluation of an earlier version, which left no mark, wrote here."""
    if has_keys(results, FIGURES, {"protocol", "counts"}):
        return True
    parts = results.names(PARTS, ".json")
    return bool(parts) and has_keys(results, f"{PARTS}/{parts[0]}.json", _PART_KEYS)


def remove_leftovers(results: Output, current: set[str]) -> None:
    """Remove tables of an earlier division of the ground truth, which would be read as current, and no other file."""
    for name in set(results.names(IMAGES, ".parquet")) - current:
        if _is_image_table(results, f"{IMAGES}/{name}.parquet"):
            results.remove(f"{IMAGES}/{name}.parquet")
    for name in set(results.names(PARTS, ".json")) - current:
        if has_keys(results, f"{PARTS}/{name}.json", _PART_KEYS):
            results.remove(f"{PARTS}/{name}.json")


def _is_image_table(results: Output, name: str) -> bool:
    try:
        names = pq.read_schema(io.BytesIO(results.read_bytes(name))).names
    except pa.ArrowException:
        return False
    return bool(names == IMAGES_SCHEMA.names)
