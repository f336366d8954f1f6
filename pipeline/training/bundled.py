"""Makes the bundled model from scratch: draws the data, trains CLIP, then grouping, then CLIP on predicted masks."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from maskmill.model.clip.loading import load_clip, save_clip
from maskmill.pipeline.shapes.write import ShapesSettings, write_shapes
from maskmill.pipeline.training.grouping import describe
from maskmill.pipeline.training.place import claim_training
from maskmill.pipeline.training.recipes import load_config
from maskmill.pipeline.training.train import CONFIGS, TrainRequest, run_training

CLIP_SEED = 101
"""The world of CLIP's training images, which show all classes, since this CLIP stands for one trained on the web."""
GROUPING_SEED = 102
"""The world of the grouping model's training images, which show seen classes only."""
VALIDATION_SEED = 103
"""The world in which fusion and calibration were chosen. Figures are reported on another world (see MODEL_CARD.md)."""
TEST_SEED = 104
"""The world in which the figures are measured; it is used for nothing else."""
CLIP_IMAGES_SHARE = 0.8
VALIDATION_IMAGES = 200
SHIPPED_SEED = 1
"""The training seed of the shipped model."""

SHORT_SIDE = 128
"""The short side, in pixels, of the bundled model's images in training and at inference."""

DEFAULTS = {"region": "cropmask", "fusion": "clip", "calibration": 0.0, "short_side": SHORT_SIDE, "prompts": "single"}
"""The best settings of the bundled model, measured on the validation world; they are written into zegformer.json."""

log = logging.getLogger(__name__)


def train_bundled(out: Path, images: int) -> Path:
    """Train the bundled model, resuming where an earlier call stopped, and return the folder with the model."""
    course = Course(out, images)
    return assemble(out / "bundled", course.grouping(SHIPPED_SEED), course.clip())


@dataclass(frozen=True)
class Course:
    """The trainings in the folder ``out``. Each method returns the folder of a finished training, and trains or resumes
    it first where it is not finished.

    images: number of training images of grouping; CLIP has a fifth less. validation_images: number of images on which
    settings are chosen. settings: `key=value` by kind of training, which override the named configurations.
    """

    out: Path
    images: int
    validation_images: int = VALIDATION_IMAGES
    settings: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def clip_data(self) -> Path:
        """Return CLIP's training images."""
        return drawn(self.out / "data-clip", round(self.images * CLIP_IMAGES_SHARE), CLIP_SEED)

    def validation_data(self) -> Path:
        """Return the images on which settings are chosen."""
        return drawn(self.out / "data-validation", self.validation_images, VALIDATION_SEED)

    def words(self) -> Path:
        """Return a CLIP that has learned the words; its text tower is not trained further."""
        return self._clip("clip-1", "bundled", [])

    def clip(self) -> Path:
        """Return the shipped CLIP: trained further on true masks, then on predicted ones."""
        images = self._clip("clip-2", "bundled-image", [f"init={self.words()}"])
        settings = [f"init={images}", f"proposals={self.grouping(SHIPPED_SEED)}"]
        return self._clip("clip-3", "bundled-predicted", settings)

    def grouping(self, seed: int) -> Path:
        """Return the grouping model of one training seed."""
        return self._segmentation("grouping", seed)

    def baseline(self, seed: int) -> Path:
        """Return the per-pixel baseline of one training seed."""
        return self._segmentation("baseline", seed)

    def _clip(self, name: str, recipe: str, settings: list[str]) -> Path:
        return self._trained(name, "clip", recipe, self.clip_data(), settings, self.validation_data())

    def _segmentation(self, kind: str, seed: int) -> Path:
        data = drawn(self.out / "data-grouping", self.images, GROUPING_SEED, "seen")
        settings = [f"clip={self.words()}", f"loop.seed={seed}"]
        return self._trained(f"{kind}-{seed}", kind, "bundled", data, settings)

    def _trained(
        self, name: str, kind: str, recipe: str, data: Path, settings: list[str], validation: Path | None = None
    ) -> Path:
        out = self.out / name
        config = load_config(kind, recipe, CONFIGS[kind], [*settings, *self.settings.get(kind, ())])
        request = TrainRequest(
            kind=kind,
            data=str(data),
            classes=str(data / "classes.json"),
            out=str(out),
            config=config.model_dump(mode="json"),
            validation=None if validation is None else str(validation),
        )
        claim_training(request)
        log.info("training %s in %s", kind, out)
        run_training(request, torch.device("cpu"))
        return out


def assemble(destination: Path, grouping: Path, clip: Path) -> Path:
    """Copy the weights of both parts into ``destination``, and write the best settings beside them."""
    destination.mkdir(parents=True, exist_ok=True)
    for name in ("zegformer.safetensors", "zegformer.json"):
        shutil.copyfile(grouping / name, destination / name)
    describe(destination / "zegformer.json", {"defaults": DEFAULTS})
    # Half precision halves the package. The largest change of a similarity is far below the gap between two names.
    half = load_clip(clip)
    half.model.half()
    save_clip(half, destination)
    return destination


def drawn(directory: Path, images: int, seed: int, allowed: str = "all") -> Path:
    """Fill ``directory`` with drawings unless that is done already, and return it."""
    if not (directory / "classes.json").exists():  # this file is written last
        log.info("drawing %d images in %s", images, directory)
        write_shapes(str(directory), ShapesSettings(images=images, seed=seed, allowed=allowed))
    return directory
