"""One evaluation from end to end: find both sides, count every unit that is not counted yet, add up, check, write."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.addresses import absolute
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.figures import figures
from pipeline.evaluation.foreign import maps_inventory, results_inventory
from pipeline.evaluation.ground_truth import TruthShard, find_ground_truth
from pipeline.evaluation.inventory import Inventory
from pipeline.evaluation.place import claim_results, remove_leftovers
from pipeline.evaluation.protocol import EvaluationError, Protocol, load_protocol
from pipeline.evaluation.run_labels import run_inventory
from pipeline.evaluation.sums import Sums
from pipeline.evaluation.unit import EXAMPLES, Comparison, UnitEvaluator, read_part
from pipeline.evaluation.write import FIGURES, write_results
from pipeline.output import Output
from pipeline.storage import StorageOptions, public_uri

CODE_VERSION = 2
"""Moves when the same inputs would give other sums, so that old parts are not taken for new ones."""

EvaluateUnits = Callable[[Comparison, Sequence[TruthShard]], Iterable[int]]
"""Evaluates units somewhere and yields the image count of each as it is done."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the counting is. Units done earlier are in ``units_done`` but not in ``images``."""

    units: int
    units_done: int
    images: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What came out. figures: the contents of evaluation.json. sums: what they were made from."""

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
    """Evaluate what ``config`` says and write the figures; units counted before with the same inputs are not redone.

    Raises UsageError for wrong settings, and EvaluationError where predictions, ground truth and protocol do not fit.
    """
    started_at = time.monotonic()
    config = _with_absolute_paths(config)
    protocol = load_protocol(config.protocol, setting=config.setting, storage_options=config.storage_option)
    results, inventory = _predictions(config, protocol)
    units, truth = find_ground_truth(config, protocol)
    comparison = Comparison(
        results=results,
        predictions=inventory.source,
        truth=truth,
        things=protocol.things,
        boundary_tolerance=config.boundary_tolerance if config.boundary else None,
        with_panoptic=config.panoptic == "on" or (config.panoptic == "auto" and inventory.has_instances),
        fingerprint=_fingerprint(config, protocol, inventory),
    )
    pending = [unit for unit in units if config.overwrite or read_part(comparison, unit) is None]
    done, images = len(units) - len(pending), 0
    on_progress(Progress(len(units), done, images, time.monotonic() - started_at))
    if pending:
        for count in evaluate_units(comparison, pending):
            done, images = done + 1, images + count
            on_progress(Progress(len(units), done, images, time.monotonic() - started_at))
    total = _add_up(comparison, units, len(inventory.index))
    coverage = _check_coverage(config, inventory, total)
    document = figures(total.sums, protocol, comparison, coverage, inventory)
    write_results(results, document, total.sums, protocol)
    remove_leftovers(results, {unit.part_id for unit in units})
    return Evaluation(
        figures=document,
        sums=total.sums,
        protocol=protocol,
        results=results,
        seconds=time.monotonic() - started_at,
    )


def evaluate_here(comparison: Comparison, units: Sequence[TruthShard]) -> Iterator[int]:
    """Evaluate units one after the other in this process, without Ray."""
    return map(UnitEvaluator(comparison), units)


def _default_results(output: str, is_run: bool) -> str:
    """Inside a run's output, but beside the files of others: nothing is put among what is read."""
    stem = output.rstrip("/")
    return f"{stem}/evaluation" if is_run else f"{stem.removesuffix('.json')}-evaluation"


def other_results(output: str, storage_options: StorageOptions) -> Output:
    """The results of another output, or the folder of such results itself. Raises EvaluationError if there are none."""
    for uri in (_default_results(output, True), _default_results(output, False), output):
        results = Output(uri, storage_options)
        if results.exists(FIGURES):
            return results
    raise EvaluationError(f"{public_uri(output)} holds no evaluation: run `maskmill evaluate` on it first")


def _with_absolute_paths(config: EvaluationConfig) -> EvaluationConfig:
    """Workers have a current folder of their own."""
    paths = {
        name: absolute(value)
        for name in ("output", "ground_truth", "results", "panoptic_maps")
        if (value := getattr(config, name)) is not None
    }
    return config.model_copy(update=paths)


def _predictions(config: EvaluationConfig, protocol: Protocol) -> tuple[Output, Inventory]:
    """Find out what ``config.output`` holds, and list it below the place where the figures will be."""
    is_json = config.output.lower().endswith(".json")
    output = Output(config.output, config.storage_option)
    run = None if is_json else output.read_json("run.json")
    if run is None and not is_json and output.names("labels", ".parquet"):
        raise EvaluationError(f"{public_uri(config.output)} holds labels but no run.json: it is no whole run")
    results = Output(config.results or _default_results(config.output, run is not None), config.storage_option)
    claim_results(results, config, of_run=run is not None)
    if run is not None:
        return results, run_inventory(output, run, protocol, results)
    list_others = results_inventory if is_json else maps_inventory
    return results, list_others(config, protocol, results)


def _fingerprint(config: EvaluationConfig, protocol: Protocol, inventory: Inventory) -> str:
    relevant = config.model_dump(
        include={
            "ground_truth_ids",
            "reduce_zero_label",
            "ground_truth_suffix",
            "ground_truth_column",
            "panoptic_maps",
            "panoptic",
            "boundary",
            "boundary_tolerance",
        }
    )
    content = [CODE_VERSION, relevant, protocol.digest(), inventory.source.version, inventory.has_instances]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """All parts together. uses: (predictions,) how many ground truth images matched each."""

    sums: Sums
    uses: np.ndarray
    missing: int
    missing_examples: list[str]


def _add_up(comparison: Comparison, units: Sequence[TruthShard], predictions: int) -> Total:
    sums = Sums.zeros(comparison.truth.classes)
    uses = np.zeros(predictions, dtype=np.int32)
    missing, examples = 0, []
    for unit in units:
        part = read_part(comparison, unit)
        if part is None:
            raise EvaluationError(
                f"the counts of unit {unit.part_id} are not those just made: is another evaluation writing to "
                f"{public_uri(comparison.results.uri)}?"
            )
        sums += part.sums
        np.add.at(uses, part.matched, 1)
        missing += part.missing
        examples += part.missing_examples
    return Total(sums=sums, uses=uses, missing=missing, missing_examples=sorted(examples)[:EXAMPLES])


def _check_coverage(config: EvaluationConfig, inventory: Inventory, total: Total) -> dict[str, int]:
    """Count what has no partner on the other side; raise EvaluationError where that is not allowed."""
    twice, unused = np.flatnonzero(total.uses > 1), np.flatnonzero(total.uses == 0)
    if twice.size:
        raise EvaluationError(
            f"{twice.size} predictions match more than one ground truth image, such as "
            f"{inventory.image_id(int(twice[0]))!r}: the image ids of both sides must agree"
        )
    matched = total.sums.count("images")
    if matched == 0:
        found = f"ground truth such as {', '.join(map(repr, total.missing_examples[:2]))}" if total.missing else "none"
        own = f"such as {inventory.image_id(0)!r}" if len(inventory.index) else "none"
        raise EvaluationError(
            f"no prediction has ground truth: {len(inventory.index)} predictions ({own}), {total.missing} images with "
            f"ground truth ({found})"
        )
    problems = []
    if total.missing:
        reasons = [f"{inventory.failed} are in the run's errors tables"] if inventory.failed else []
        reasons += [f"{inventory.pending_shards} of its shards are not finished"] if inventory.pending_shards else []
        why = f" ({'; '.join(reasons)})" if reasons else ""
        problems.append(
            f"{total.missing} images have ground truth but no prediction, such as {total.missing_examples[0]!r}{why}"
        )
    if unused.size:
        problems.append(
            f"{unused.size} images have a prediction but no ground truth, such as "
            f"{inventory.image_id(int(unused[0]))!r}"
        )
    if problems and not config.allow_missing:
        raise EvaluationError(f"{'; '.join(problems)}. --allow-missing evaluates the {matched} images both sides have")
    return {
        "images_without_prediction": total.missing,
        "images_without_ground_truth": int(unused.size),
        "images_failed_in_labelling": inventory.failed,
    }
