"""Makes the bundled model from nothing: draws the data, trains CLIP, then grouping, then CLIP on predicted masks."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from model.clip import load_clip, save_clip
from pipeline.shapes.write import ShapesSettings, write_shapes
from pipeline.training.grouping import describe
from pipeline.training.recipes import load_config
from pipeline.training.run import CONFIGS, TrainRequest, run_training

CLIP_SEED = 101
"""World of CLIP's training images, which show all classes: CLIP plays the part of the one trained on the web."""
GROUPING_SEED = 102
"""World of the grouping model's training images, which show seen classes only."""
VALIDATION_SEED = 103
"""World in which fusion and calibration were chosen. Figures are reported on another one (see MODEL_CARD.md)."""
CLIP_IMAGES_SHARE = 0.8
VALIDATION_IMAGES = 400

DEFAULTS = {"region": "cropmask", "fusion": "clip", "calibration": 0.0, "short_side": 160, "prompts": "single"}
"""How the bundled model is best used, measured on the validation world; written into zegformer.json."""

log = logging.getLogger(__name__)


def train_bundled(out: Path, images: int) -> Path:
    """Return the folder with the finished model. Resumes where an earlier call stopped."""
    clip_data = _drawn(out / "data-clip", round(images * CLIP_IMAGES_SHARE), CLIP_SEED, "all")
    grouping_data = _drawn(out / "data-grouping", images, GROUPING_SEED, "seen")
    validation = _drawn(out / "data-validation", VALIDATION_IMAGES, VALIDATION_SEED, "all")
    words = _trained(out / "clip-1", "clip", "bundled", clip_data, [], validation)
    clip = _trained(out / "clip-2", "clip", "bundled-image", clip_data, [f"init={words}"], validation)
    masks = _trained(out / "grouping-1", "grouping", "bundled", grouping_data, [f"clip={words}"])
    settings = [f"clip={words}", f"init={masks}"]
    grouping = _trained(out / "grouping-2", "grouping", "bundled-names", grouping_data, settings)
    settings = [f"init={clip}", f"proposals={masks}"]
    clip = _trained(out / "clip-3", "clip", "bundled-predicted", clip_data, settings, validation)
    return assemble(out / "bundled", grouping, clip)


def assemble(destination: Path, grouping: Path, clip: Path) -> Path:
    """Gather the weights of both parts in ``destination`` and note there how they are best used."""
    destination.mkdir(parents=True, exist_ok=True)
    for name in ("zegformer.safetensors", "zegformer.json"):
        shutil.copyfile(grouping / name, destination / name)
    describe(destination / "zegformer.json", {"defaults": DEFAULTS})
    # Half precision halves the package; the largest change of a similarity is far below the gap between two names.
    half = load_clip(clip)
    half.model.half()
    save_clip(half, destination)
    return destination


def _drawn(directory: Path, images: int, seed: int, allowed: str) -> Path:
    if not (directory / "classes.json").exists():  # written last
        log.info("drawing %d images in %s", images, directory)
        write_shapes(str(directory), ShapesSettings(images=images, seed=seed, allowed=allowed))
    return directory


def _trained(
    out: Path, kind: str, recipe: str, data: Path, settings: list[str], validation: Path | None = None
) -> Path:
    config: dict[str, Any] = load_config(kind, recipe, CONFIGS[kind], settings).model_dump(mode="json")
    request = TrainRequest(
        kind=kind,
        data=str(data),
        classes=str(data / "classes.json"),
        out=str(out),
        config=config,
        validation=None if validation is None else str(validation),
    )
    log.info("training %s in %s", kind, out)
    run_training(request, torch.device("cpu"))
    return out
