"""Runs one evaluation from end to end: find both sides, count the units not counted yet, add up, check, write."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from maskmill.pipeline.evaluation.config import EvaluationConfig
from maskmill.pipeline.evaluation.coverage import add_up, check_coverage
from maskmill.pipeline.evaluation.document import figures
from maskmill.pipeline.evaluation.foreign import maps_inventory, results_inventory
from maskmill.pipeline.evaluation.ground_truth import TruthReader, TruthShard, find_ground_truth
from maskmill.pipeline.evaluation.inventory import Inventory
from maskmill.pipeline.evaluation.place import claim_results, remove_leftovers
from maskmill.pipeline.evaluation.protocol import EvaluationError, Protocol, load_protocol
from maskmill.pipeline.evaluation.run_labels import run_inventory
from maskmill.pipeline.evaluation.sums import Sums
from maskmill.pipeline.evaluation.unit import Comparison, read_part
from maskmill.pipeline.evaluation.write import FIGURES, write_results
from maskmill.pipeline.output.folder import LABELS_FOLDER, RUN_FILE, Output
from maskmill.pipeline.storage.addresses import absolute
from maskmill.pipeline.storage.files import StorageOptions, public_uri

CODE_VERSION = 2
"""Raised when a change of the code changes the sums of the same inputs, so that old parts are not used again."""

EvaluateUnits = Callable[[Comparison, Sequence[TruthShard]], Iterable[int]]
"""Evaluates units, in this process or on a cluster, and yields the image count of each unit when it is done."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the counting is. Units done by an earlier call are in ``units_done`` but not in ``images``."""

    units: int
    units_done: int
    images: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The outcome. figures: the contents of evaluation.json. sums: the integers the figures were computed from."""

    figures: dict[str, Any]
    sums: Sums
    protocol: Protocol
    results: Output
    seconds: float


def evaluate(
    config: EvaluationConfig,
    evaluate_units: EvaluateUnits,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Evaluation:
    """Evaluate as ``config`` says and write the figures; units counted before with the same inputs are not redone.

    Raises UsageError for wrong settings, and EvaluationError where predictions, ground truth and protocol do not fit.
    """
    started_at = time.monotonic()
    config = _with_absolute_paths(config)
    protocol = load_protocol(config.protocol, setting=config.setting, storage_options=config.storage_option)
    results, inventory = _predictions(config, protocol)
    units, truth = find_ground_truth(config, protocol, inventory.ids)
    comparison = _comparison(config, protocol, results, inventory, truth)
    pending = [unit for unit in units if config.overwrite or read_part(comparison, unit) is None]
    done, images = len(units) - len(pending), 0
    on_progress(Progress(len(units), done, images, time.monotonic() - started_at))
    if pending:
        for count in evaluate_units(comparison, pending):
            done, images = done + 1, images + count
            on_progress(Progress(len(units), done, images, time.monotonic() - started_at))
    total = add_up(comparison, units, len(inventory.index))
    if total.stale and (config.allow_missing or not total.shared.size):
        # Only now it is known which predictions several images match, so the units that counted one are done again.
        comparison = replace(comparison, shared=frozenset(total.shared.tolist()))
        for _ in evaluate_units(comparison, total.stale):
            pass
        total = add_up(comparison, units, len(inventory.index))
    coverage, left_out = check_coverage(config, inventory, total)
    document = figures(total.sums, protocol, comparison, coverage, inventory, left_out)
    write_results(results, document, total.sums, protocol)
    remove_leftovers(results, {unit.part_id for unit in units})
    return Evaluation(
        figures=document,
        sums=total.sums,
        protocol=protocol,
        results=results,
        seconds=time.monotonic() - started_at,
    )


def _comparison(
    config: EvaluationConfig, protocol: Protocol, results: Output, inventory: Inventory, truth: TruthReader
) -> Comparison:
    return Comparison(
        results=results,
        predictions=inventory.source,
        truth=truth,
        things=protocol.things,
        boundary_tolerance=config.boundary_tolerance if config.boundary else None,
        with_panoptic=config.panoptic == "on" or (config.panoptic == "auto" and inventory.has_instances),
        swapped_sides=config.swapped_sides,
        fingerprint=_fingerprint(config, protocol, inventory),
    )


def _default_results(output: str, is_run: bool) -> str:
    """Return a folder inside a run's output, but one beside the files of other programs, which may hold only those."""
    stem = output.rstrip("/")
    return f"{stem}/evaluation" if is_run else f"{stem.removesuffix('.json')}-evaluation"


def other_results(output: str, storage_options: StorageOptions) -> Output:
    """Return the results of another output, given that output or the results folder itself.

    Raises EvaluationError if there are none.
    """
    for uri in (_default_results(output, True), _default_results(output, False), output):
        results = Output(uri, storage_options)
        if results.exists(FIGURES):
            return results
    raise EvaluationError(f"{public_uri(output)} holds no evaluation: run `maskmill evaluate` on it first")


def _with_absolute_paths(config: EvaluationConfig) -> EvaluationConfig:
    """Make the paths absolute, because the current folder of a worker differs from that of this process."""
    paths = {
        name: absolute(value)
        for name in ("output", "ground_truth", "results", "panoptic_maps")
        if (value := getattr(config, name)) is not None
    }
    return config.model_copy(update=paths)


def _predictions(config: EvaluationConfig, protocol: Protocol) -> tuple[Output, Inventory]:
    """Find out what ``config.output`` holds, and write its lists below the folder of the results."""
    is_json = config.output.lower().endswith(".json")
    output = Output(config.output, config.storage_option)
    run = None if is_json else output.read_json(RUN_FILE)
    if run is None and not is_json and output.names(LABELS_FOLDER, ".parquet"):
        raise EvaluationError(f"{public_uri(config.output)} holds labels but no {RUN_FILE}: it is not a complete run")
    results = Output(config.results or _default_results(config.output, run is not None), config.storage_option)
    claim_results(results, config, of_run=run is not None)
    if run is not None:
        return results, run_inventory(output, run, protocol, results, config.prediction_suffix)
    list_others = results_inventory if is_json else maps_inventory
    return results, list_others(config, protocol, results)


def _fingerprint(config: EvaluationConfig, protocol: Protocol, inventory: Inventory) -> str:
    relevant = config.model_dump(
        include={
            "ground_truth_ids",
            "reduce_zero_label",
            "ground_truth_suffix",
            "prediction_suffix",
            "ground_truth_column",
            "panoptic_maps",
            "panoptic",
            "boundary",
            "boundary_tolerance",
        }
    )
    # With "refuse" and with "skip" the same images are counted.
    relevant["swapped_sides"] = "skip" if config.swapped_sides == "refuse" else config.swapped_sides
    content = [
        CODE_VERSION,
        relevant,
        inventory.ids,
        protocol.digest(),
        inventory.source.version,
        inventory.has_instances,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
