"""Measures what decoupling and the image branch contribute, on drawings used for nothing else (paper section 4.3).

The study trains grouping and the per-pixel baseline for several seeds with one CLIP, chooses every method's calibration
on the validation images, and writes study.json, study.md and a picture, study.png.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maskmill.model.clip.clip import Clip
from maskmill.model.clip.loading import load_clip
from maskmill.model.naming.settings import Fusion, Region
from maskmill.model.vocabulary import Vocabulary
from maskmill.pipeline.shapes.world import CLASSES
from maskmill.pipeline.training.bundled import SHIPPED_SEED, SHORT_SIDE, TEST_SEED, VALIDATION_IMAGES, Course, drawn
from maskmill.pipeline.training.classes import read_classes
from maskmill.pipeline.training.counts import class_groups, figures, interval, pixel_counts, resample_weights
from maskmill.pipeline.training.methods import CALIBRATIONS, Scores, decoupled, label_map, per_pixel
from maskmill.pipeline.training.pictures import comparison
from maskmill.pipeline.training.record_store import RecordStore, open_records
from maskmill.pipeline.training.region_scores import PHRASINGS, measure_phrases, measure_regions

METHODS: dict[str, tuple[Fusion, Region] | None] = {
    "per-pixel": None,
    "decoupled, no image branch": ("query", "cropmask"),
    "ensembling, cropmask": ("ensembling", "cropmask"),
    "ensembling, crop": ("ensembling", "crop"),
    "ensembling, mask": ("ensembling", "mask"),
    "ensembling-all, cropmask": ("ensembling-all", "cropmask"),
    "clip, cropmask": ("clip", "cropmask"),
}
"""The fusion and the region of each row of the table, by its name; None for the baseline."""
ENSEMBLING = "ensembling, cropmask"
DIFFERENCES = (
    (ENSEMBLING, "decoupled, no image branch", "unseen"),
    (ENSEMBLING, "per-pixel", "new_shape"),
    (ENSEMBLING, "per-pixel", "unseen"),
    ("decoupled, no image branch", "per-pixel", "seen"),
    ("decoupled, no image branch", "per-pixel", "unseen"),
)
"""The pairs of methods that are compared, and the figure they are compared by."""
PICTURED = ("per-pixel", "decoupled, no image branch", ENSEMBLING, "clip, cropmask")
PICTURED_IMAGES = 5
"""How many test images are drawn: the first ones that show a shape that is never annotated."""
FIGURES = ("seen", "unseen", "harmonic", "new_shape", "new_combination", "new_stuff", "pixel_accuracy")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudySettings:
    """What to study. seeds: of training. images, settings: as in ``Course``. validation_images, test_images: counts."""

    seeds: tuple[int, ...] = (1, 2, 3)
    images: int = 10_000
    validation_images: int = VALIDATION_IMAGES
    test_images: int = 1000
    settings: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Bench:
    """The data and the CLIP that all methods are measured with."""

    clip: Clip
    vocabulary: Vocabulary
    validation: list[tuple[np.ndarray, np.ndarray]]
    test: list[tuple[np.ndarray, np.ndarray]]

    @property
    def seen(self) -> np.ndarray:
        return np.array(self.vocabulary.seen_flags)


def run_study(out: Path, settings: StudySettings) -> Path:
    """Train the models that are missing in ``out``, measure all methods, and return the path of study.md.

    Methods measured by an earlier call of the same study are not measured again.
    """
    course = Course(out, settings.images, settings.validation_images, settings.settings)
    test = drawn(out / "data-test", settings.test_images, TEST_SEED)
    bench = _Bench(
        clip=load_clip(course.clip()),
        vocabulary=read_classes(str(test / "classes.json")).vocabulary,
        validation=_pairs(open_records(str(course.validation_data()), out / "cache")),
        test=_pairs(open_records(str(test), out / "cache")),
    )
    measured = {seed: dict(_measured_methods(course, bench, seed)) for seed in settings.seeds}
    kinds = {kind: [i for i, entry in enumerate(CLASSES) if entry.group == kind] for kind in FIGURES[3:6]}
    groups = class_groups(bench.vocabulary, kinds)
    weights = resample_weights(len(bench.test))
    values = {
        seed: {name: figures(entry["counts"], weights, groups) for name, entry in methods.items()}
        for seed, methods in measured.items()
    }
    document = {
        "settings": {"training_seeds": list(settings.seeds), "training_images": settings.images},
        "test": {"world_seed": TEST_SEED, "images": len(bench.test)},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()},
        "methods": {name: _row(name, measured, values) for name in METHODS},
        "differences": [_difference(values, *pair) for pair in DIFFERENCES],
        "regions": measure_regions(course.grouping(SHIPPED_SEED), bench.clip, bench.vocabulary, bench.test),
        "phrases": measure_phrases(bench.clip, bench.vocabulary, bench.test),
        "training_cpu_seconds": _training_seconds(course, settings.seeds),
    }
    (out / "study.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (out / "study.md").write_text(_markdown(document), encoding="utf-8")
    _picture(course, bench, measured, kinds["new_shape"]).save(out / "study.png")
    return out / "study.md"


def _pairs(records: RecordStore) -> list[tuple[np.ndarray, np.ndarray]]:
    pairs = (records.load(position) for position in range(len(records)))
    return [(image, label.astype(np.int64)) for image, label in pairs]


def _measured_methods(course: Course, bench: _Bench, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, counts of every test image, calibration, CPU time per image) of every method for one seed."""
    baseline, grouping = course.baseline(seed), course.grouping(seed)
    for name, way in METHODS.items():
        directory = baseline if way is None else grouping
        path = directory / f"measured-{name.replace(', ', '-').replace(' ', '-')}.npz"
        if not path.exists():
            log.info("measuring %s, seed %d", name, seed)
            scores = _scores(name, directory, bench)
            calibration = _best_calibration(scores, bench)
            started = time.process_time()
            counts = _count(scores, bench, bench.test, calibration)
            seconds = (time.process_time() - started) / len(bench.test)
            np.savez_compressed(path, counts=counts, calibration=calibration, seconds=seconds)
        with np.load(path, allow_pickle=False) as stored:
            yield name, {key: stored[key] for key in stored.files}


def _scores(name: str, directory: Path, bench: _Bench) -> Scores:
    """Return the method called ``name`` with the model that was trained in ``directory``."""
    way = METHODS[name]
    if way is None:
        return per_pixel(directory, bench.clip, bench.vocabulary, SHORT_SIDE)
    return decoupled(directory, bench.clip, bench.vocabulary, SHORT_SIDE, fusion=way[0], region=way[1])


def _picture(course: Course, bench: _Bench, measured: Mapping[int, Any], classes: Sequence[int]) -> Image.Image:
    """Draw some test images with the labels of the first seed's models."""
    seed = min(measured)
    shown = list(islice((pair for pair in bench.test if np.isin(pair[1], classes).any()), PICTURED_IMAGES))
    label_maps = {}
    for name in PICTURED:
        directory = course.baseline(seed) if METHODS[name] is None else course.grouping(seed)
        scores, calibration = _scores(name, directory, bench), float(measured[seed][name]["calibration"])
        label_maps[name] = [label_map(scores(image), bench.seen, calibration) for image, _ in shown]
    return comparison([image for image, _ in shown], [label for _, label in shown], label_maps, bench.vocabulary)


def _count(scores: Scores, bench: _Bench, pairs: list[tuple[np.ndarray, np.ndarray]], calibration: float) -> np.ndarray:
    classes = len(bench.vocabulary)
    return np.stack(
        [pixel_counts(label, label_map(scores(image), bench.seen, calibration), classes) for image, label in pairs]
    )


def _best_calibration(scores: Scores, bench: _Bench) -> float:
    """Return the calibration with the highest harmonic mean on the validation images."""
    classes = len(bench.vocabulary)
    sums = {amount: np.zeros((3, classes), dtype=np.int64) for amount in CALIBRATIONS}
    for image, label in bench.validation:
        class_scores = scores(image)
        for amount, total in sums.items():
            total += pixel_counts(label, label_map(class_scores, bench.seen, amount), classes)
    groups = class_groups(bench.vocabulary, {})
    return max(sums, key=lambda amount: figures(sums[amount][None], np.ones((1, 1)), groups)["harmonic"][0])


def _row(name: str, measured: Mapping[int, Any], values: Mapping[int, Any]) -> dict[str, Any]:
    """Return mean and standard deviation over training seeds, and the interval of each seed over test images."""
    row: dict[str, Any] = {
        "calibrations": [float(methods[name]["calibration"]) for methods in measured.values()],
        "cpu_ms_per_image": float(np.mean([methods[name]["seconds"] for methods in measured.values()])) * 1000,
    }
    for figure in FIGURES:
        by_seed = np.stack([by_method[name][figure] for by_method in values.values()])
        _, low, high = interval(by_seed.mean(axis=0))
        row[figure] = {
            "mean": float(by_seed[:, 0].mean()),
            "spread": float(by_seed[:, 0].std(ddof=1)) if len(by_seed) > 1 else None,
            "by_seed": by_seed[:, 0].tolist(),
            "low": low,
            "high": high,
        }
    return row


def _difference(values: Mapping[int, Any], one: str, other: str, figure: str) -> dict[str, Any]:
    gaps = np.stack([by_method[one][figure] - by_method[other][figure] for by_method in values.values()]).mean(axis=0)
    value, low, high = interval(gaps)
    return {"of": one, "over": other, "figure": figure, "difference": value, "low": low, "high": high}


def _training_seconds(course: Course, seeds: tuple[int, ...]) -> dict[str, float]:
    names = ["clip-1", "clip-2", "clip-3", *(f"{kind}-{seed}" for seed in seeds for kind in ("grouping", "baseline"))]
    seconds = {}
    for name in names:
        text = (course.out / name / "metrics.jsonl").read_text(encoding="utf-8")
        seconds[name] = max(json.loads(line).get("cpu_seconds", 0.0) for line in text.splitlines())
    return seconds


def _markdown(document: Mapping[str, Any]) -> str:
    """Return the tables of the study as Markdown."""
    seeds, test = document["settings"]["training_seeds"], document["test"]
    lines = [
        f"{test['images']} drawings of world {test['world_seed']}; mean ± standard deviation over training seeds "
        f"{', '.join(map(str, seeds))}; mIoU in percent.",
        "",
        "| method | seen | unseen | H | new shapes | new combinations | new stuff | pixel accuracy | ms/image |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in document["methods"].items():
        cells = [_with_spread(row[figure]) for figure in FIGURES]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['cpu_ms_per_image']:.0f} |")
    lines += ["", "| difference | of | points | 95 % interval |", "|---|---|---|---|"]
    for gap in document["differences"]:
        bounds = f"{gap['low']:+.1f} to {gap['high']:+.1f}"
        lines.append(f"| {gap['of']} - {gap['over']} | {gap['figure']} | {gap['difference']:+.1f} | {bounds} |")
    regions = document["regions"]
    lines += ["", "| class-agnostic masks | recall at IoU 0.5 | mean best IoU |", "|---|---|---|"]
    lines += [
        f"| {kind} | {quality['recall']:.3f} | {quality['iou']:.3f} |" for kind, quality in regions["masks"].items()
    ]
    lines += ["", "| CLIP's top-1 | on predicted masks | on true masks |", "|---|---|---|"]
    lines += [f"| {name} | {top1['predicted']:.3f} | {top1['true']:.3f} |" for name, top1 in regions["top1"].items()]
    lines += ["", "| classes asked for as | example | top-1 on true masks |", "|---|---|---|"]
    lines += [f"| {name} | {PHRASINGS[name]} | {share:.3f} |" for name, share in document["phrases"].items()]
    return "\n".join(lines) + "\n"


def _with_spread(figure: Mapping[str, Any]) -> str:
    return f"{figure['mean']:.1f}" + ("" if figure["spread"] is None else f" ± {figure['spread']:.1f}")
