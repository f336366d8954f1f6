"""Adds up the parts of an evaluation, and reports images that have no partner on the other side, or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from maskmill.pipeline.evaluation.config import EvaluationConfig
from maskmill.pipeline.evaluation.ground_truth import TruthShard
from maskmill.pipeline.evaluation.inventory import Inventory
from maskmill.pipeline.evaluation.part import Named, nothing_left_out
from maskmill.pipeline.evaluation.protocol import EvaluationError
from maskmill.pipeline.evaluation.sums import Sums
from maskmill.pipeline.evaluation.unit import Comparison, read_part
from maskmill.pipeline.storage.files import public_uri


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """All parts together. uses: (predictions,) how many ground truth images match each prediction.

    stale: units whose counts are out of date: they counted a prediction that other ground truth matches too, or left
    out one that no other ground truth matches any more.
    """

    sums: Sums
    uses: np.ndarray
    left_out: dict[str, Named]
    stale: list[TruthShard]

    @property
    def shared(self) -> np.ndarray:
        """Positions of the predictions that several ground truth images match."""
        return np.flatnonzero(self.uses > 1)


def add_up(comparison: Comparison, units: Sequence[TruthShard], predictions: int) -> Total:
    """Read and add the parts of all units. Raises EvaluationError where a part is missing."""
    sums = Sums.zeros(comparison.truth.classes)
    uses = np.zeros(predictions, dtype=np.int32)
    left_out = nothing_left_out()
    met: list[tuple[TruthShard, list[int], list[int]]] = []
    for unit in units:
        part = read_part(comparison, unit)
        if part is None:
            raise EvaluationError(
                f"the counts of unit {unit.part_id} are not those just made: is another evaluation writing to "
                f"{public_uri(comparison.results.uri)}?"
            )
        sums += part.sums
        np.add.at(uses, part.matched, 1)
        np.add.at(uses, part.shared, 1)
        met.append((unit, part.matched, part.shared))
        left_out = {reason: named + part.left_out[reason] for reason, named in left_out.items()}
    stale = [unit for unit, matched, shared in met if (uses[matched] > 1).any() or (uses[shared] < 2).any()]
    return Total(sums=sums, uses=uses, left_out=left_out, stale=stale)


def check_coverage(config: EvaluationConfig, inventory: Inventory, total: Total) -> tuple[dict[str, int], list[str]]:
    """Return the counts of images without a partner, and a warning for each kind that occurs.

    Raises EvaluationError where such images are not allowed, or where nothing is left to compare.
    """
    swapped = total.left_out["images_with_swapped_sides"]
    if swapped.count and config.swapped_sides == "refuse":
        raise EvaluationError(
            f"{swapped.count} images are as high as their ground truth is wide and the other way round: {swapped}. "
            "This happens where photographs were turned as their EXIF says and their ground truth was not. "
            "--swapped-sides right or left turns such ground truth (for EXIF orientation 6 or 8), skip leaves it out, "
            "resize stretches it to the image"
        )
    unused = np.flatnonzero(total.uses == 0)
    problems = _problems(inventory, total, unused)
    matched = total.sums.count("images")
    if problems and matched and not config.allow_missing:
        raise EvaluationError(f"{'; '.join(problems)}. --allow-missing evaluates the {matched} images both sides have")
    if swapped.count:
        turned = f"was turned {config.swapped_sides}"
        done = {"skip": "was left out", "resize": "was resized"}.get(config.swapped_sides, turned)
        problems.append(f"the ground truth of {swapped.count} images has its sides swapped and {done}: {swapped}")
    if not matched:
        raise EvaluationError(_nothing_found(inventory, total, problems))
    counts = {reason: named.count for reason, named in total.left_out.items()}
    return {
        **counts,
        "images_without_ground_truth": int(unused.size),
        "images_failed_in_labelling": inventory.failed,
    }, problems


def _problems(inventory: Inventory, total: Total, unused: np.ndarray) -> list[str]:
    """Return one sentence for each way in which the two sides do not cover each other."""
    missing, absent = total.left_out["images_without_prediction"], total.left_out["ground_truth_files_missing"]
    problems = []
    if missing.count:
        reasons = [f"{inventory.failed} are in the run's errors tables"] if inventory.failed else []
        reasons += [f"{inventory.pending_shards} of its shards are not finished"] if inventory.pending_shards else []
        why = f" ({'; '.join(reasons)})" if reasons else ""
        problems.append(
            f"{missing.count} images have ground truth but no prediction, such as {missing.examples[0]!r}{why}"
        )
    if unused.size:
        problems.append(
            f"{unused.size} images have a prediction but no ground truth, such as "
            f"{inventory.image_id(int(unused[0]))!r}"
        )
    if absent.count:
        problems.append(f"{absent.count} files of ground truth are listed but not there: {absent}")
    ambiguous, shared = total.left_out["images_ambiguous"], total.shared
    if shared.size:
        problems.append(
            f"{shared.size} predictions match more than one ground truth image, such as "
            f"{inventory.image_id(int(shared[0]))!r}"
        )
    if ambiguous.count:
        problems.append(
            f"{ambiguous.count} ground truth images match several predictions, or one that others match too, and "
            f"neither address nor file name tells which is meant: {ambiguous}"
        )
    return problems


def _nothing_found(inventory: Inventory, total: Total, problems: Sequence[str]) -> str:
    missing = total.left_out["images_without_prediction"]
    found = f"ground truth such as {', '.join(map(repr, missing.examples[:2]))}" if missing.count else "none"
    example = f"such as {inventory.image_id(0)!r}" if len(inventory.index) else "none"
    others = [problem for problem in problems if "no prediction" not in problem and "no ground truth" not in problem]
    more = f"; {'; '.join(others)}" if others else ""
    return (
        f"no prediction has ground truth: {len(inventory.index)} predictions ({example}), {missing.count} images with "
        f"ground truth ({found}){more}"
    )


def coverage_counts(counts: Mapping[str, int]) -> str:
    """Return the counts of what was left out as one line; those without a partner always, the others if not zero."""
    words = {
        "images_without_prediction": "without prediction",
        "images_without_ground_truth": "without ground truth",
        "images_ambiguous": "ambiguous",
        "images_with_swapped_sides": "with swapped sides",
        "ground_truth_files_missing": "with a missing file of ground truth",
    }
    return ", ".join(
        f"{counts[key]:,} {text}" for key, text in words.items() if counts[key] or key.startswith("images_without")
    )
