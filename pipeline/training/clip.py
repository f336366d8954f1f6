"""Trains a small CLIP on regions of labelled images; each region is compared with a sentence for every class name.

Legend for shapes: N regions of a batch, C captions (one per class), D embedding size, L context length.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from maskmill.model.clip.clip import Clip
from maskmill.model.clip.loading import load_clip, new_clip, save_clip
from maskmill.model.clip.prompts import IMAGE_BRANCH, IMAGENET, IMAGENET_SELECT, SINGLE
from maskmill.model.clip.text import text_features
from maskmill.model.vocabulary import Vocabulary
from maskmill.pipeline.training.classes import TrainingClasses
from maskmill.pipeline.training.crops import CropSettings, RegionCrops, padded_pixels, show, true_crops
from maskmill.pipeline.training.loop import TrainingData
from maskmill.pipeline.training.predicted_masks import LabelledMasks, MaskPredictor
from maskmill.pipeline.training.record_store import RecordStore
from maskmill.pipeline.training.settings import LoopSettings
from maskmill.pipeline.training.tokens import learn_merges, words_of, write_merges

TEMPLATE_SETS: tuple[tuple[tuple[str, ...], float], ...] = (
    (IMAGE_BRANCH, 0.55),
    (SINGLE, 0.15),
    (IMAGENET_SELECT, 0.15),
    (IMAGENET, 0.1),
    (("{}",), 0.05),
)
"""The sentences of the captions, with their shares: all that inference may use, most often the image branch's."""
LARGEST_LOGIT_SCALE = 100.0
"""The limit that CLIP sets on the factor of the similarities."""


class ClipConfig(BaseModel):
    """Settings of ``maskmill train clip``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loop: LoopSettings
    model: dict[str, Any] = Field(
        default_factory=dict,
        description="open_clip model configuration; the vocabulary size is filled in. Not used with init.",
    )
    short_side: int = Field(ge=32, description="Short side of the images the regions are cut from, as at inference.")
    regions: int = Field(3, ge=1, description="Regions of ground truth taken of one image.")
    component_share: float = Field(0.3, ge=0, le=1, description="How often one connected part of a class is taken.")
    modes: dict[str, float] = Field(
        default_factory=lambda: {"cropmask": 0.65, "crop": 0.25, "mask": 0.1}, description="Shares of region modes."
    )
    captions: int = Field(256, ge=2, description="Largest number of classes a region is compared with in a step.")
    init: str | None = Field(None, description="A trained CLIP (folder) to go on from; its text side stays as it is.")
    proposals: str | None = Field(
        None, description="A grouping model (folder) whose predicted masks are shown as well."
    )
    remembered_images: int = Field(20_000, ge=0, description="Images whose predicted masks are kept in memory.")


class ClipBatch(NamedTuple):
    """Regions of a batch.

    images: (N, 3, S, S). labels: (N,) int64. no_object_logits: (N,), -inf where the mask was not predicted.
    """

    images: Tensor
    labels: Tensor
    no_object_logits: Tensor


class RegionDataset(TrainingData):
    """Regions of training images, one image per item, indexed by (position, seed)."""

    def __init__(
        self,
        records: RecordStore,
        ignore: int,
        settings: CropSettings,
        predictor: MaskPredictor | None,
        remembered_images: int = 0,
    ) -> None:
        self._records, self._ignore, self._settings, self._predictor = records, ignore, settings, predictor
        self._remembered_images = remembered_images
        self._remembered: dict[int, LabelledMasks] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, key: tuple[int, int]) -> ClipBatch:
        position, seed = key
        image, label = self._records.load(position)
        crops = true_crops(image, label, self._ignore, self._settings, seed)
        batch = _batch(crops, torch.full((len(crops.labels),), -math.inf))
        if self._predictor is None:
            return batch
        return _joined([batch, self._predicted(position, image, label, seed)])

    def _predicted(self, position: int, image: np.ndarray, label: np.ndarray, seed: int) -> ClipBatch:
        assert self._predictor is not None
        rng = np.random.default_rng((seed, 1))
        masks = self._remembered.get(position)
        if masks is None:
            masks = self._predictor(image, label, self._ignore)
            if len(self._remembered) < self._remembered_images:
                self._remembered[position] = masks
        chosen = torch.from_numpy(rng.permutation(len(masks.labels))[: 2 * self._settings.regions])
        if len(chosen) == 0:
            return ClipBatch(torch.empty(0, 3, self._settings.side, self._settings.side), chosen, torch.empty(0))
        pixels = padded_pixels(image, self._settings.short_side)
        logits = F.interpolate(masks.mask_logits[chosen][None].float(), size=pixels.shape[-2:], mode="bilinear")[0]
        # Pass row numbers to `show` as labels, to get back which masks were shown; some are left out.
        crops = show(pixels, logits, chosen, self._settings, rng)
        rows = crops.labels
        return ClipBatch(crops.images, masks.labels[rows], masks.no_object_logits[rows])


def _batch(crops: RegionCrops, no_object_logits: Tensor) -> ClipBatch:
    return ClipBatch(crops.images, crops.labels, no_object_logits)


def _joined(items: list[ClipBatch]) -> ClipBatch:
    return ClipBatch(*(torch.cat(parts) for parts in zip(*items, strict=True)))


class ContrastiveModule(nn.Module):
    """open_clip's CLIP with the contrastive loss over named regions."""

    def __init__(self, clip: Clip, vocabulary: Vocabulary, config: ClipConfig) -> None:
        super().__init__()
        self.model = clip.model
        self._tokenizer, self._vocabulary, self._config = clip.tokenizer, vocabulary, config
        self._precision = getattr(torch, config.loop.precision)

    def forward(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Return the loss, its two directions, and the share of regions whose best caption is right."""
        device = self.model.logit_scale.device
        chooser = random.Random(int(torch.randint(2**31, ()).item()))  # noqa: S311 (chooses captions, keeps no secret)
        class_ids = self._captioned_classes(batch.labels, chooser)
        tokens = self._tokenizer([self._caption(class_id, chooser) for class_id in class_ids]).to(device)
        place_of = torch.full((len(self._vocabulary),), -1)
        place_of[class_ids] = torch.arange(len(class_ids))
        expected = place_of[batch.labels].to(device)
        images = batch.images.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, self._precision, enabled=self._precision != torch.float32):
            image_ND, text_CD = self.model.encode_image(images), self.model.encode_text(tokens)
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(LARGEST_LOGIT_SCALE))
        image_ND, text_CD = F.normalize(image_ND.float(), dim=-1), F.normalize(text_CD.float(), dim=-1)
        logits_NC = self.model.logit_scale.exp() * image_ND @ text_CD.T
        no_object_N1 = batch.no_object_logits.to(device)[:, None]
        by_image = F.cross_entropy(torch.cat([logits_NC, no_object_N1], dim=1), expected)
        by_text = several_positives_loss(logits_NC.T, expected)
        top1 = (logits_NC.argmax(1) == expected).float().mean()
        scale = self.model.logit_scale.exp().detach()
        return {
            "loss": (by_image + by_text) / 2,
            "by_image": by_image,
            "by_text": by_text,
            "top1": top1,
            "scale": scale,
        }

    def _captioned_classes(self, labels: Tensor, chooser: random.Random) -> list[int]:
        present = sorted(set(labels.tolist()))
        absent = [class_id for class_id in range(len(self._vocabulary)) if class_id not in set(present)]
        room = max(self._config.captions - len(present), 0)
        return present + (absent if len(absent) <= room else chooser.sample(absent, room))

    def _caption(self, class_id: int, chooser: random.Random) -> str:
        sets = [templates for templates, _ in TEMPLATE_SETS]
        shares = [share for _, share in TEMPLATE_SETS]
        template = chooser.choice(chooser.choices(sets, shares)[0])
        return template.replace("{}", chooser.choice(self._vocabulary.entries[class_id].names))


def several_positives_loss(logits_CN: Tensor, expected: Tensor) -> Tensor:
    """Return the contrastive loss of each caption against all regions, of which several may be right.

    The log-probabilities of the right regions are averaged over each caption's right regions, then over the captions
    that have any. expected: (N,) the caption of each region.
    """
    right_CN = expected[None] == torch.arange(len(logits_CN), device=expected.device)[:, None]
    counts_C = right_CN.sum(1)
    log_probability_CN = logits_CN.log_softmax(1)
    sums_C = torch.where(right_CN, log_probability_CN, torch.zeros_like(log_probability_CN)).sum(1)
    has = counts_C > 0
    return -(sums_C[has] / counts_C[has]).mean()


class ClipTraining:
    """The task ``maskmill train clip`` runs (see ``loop.Task``)."""

    def __init__(
        self,
        config: ClipConfig,
        records: RecordStore,
        classes: TrainingClasses,
        out: Path,
        validation: RecordStore | None = None,
    ) -> None:
        self.config = {**config.model_dump(mode="json"), "records": records.fingerprint}
        self._classes, self._validation, self._settings = classes, validation, config
        self.clip = load_clip(config.init) if config.init else fresh_clip(config.model, classes.vocabulary, out)
        self.clip.model.requires_grad_(True)
        if config.init:
            _freeze_text(self.clip.model)
        self.clip.model.to(memory_format=torch.channels_last)
        self._crops = CropSettings(
            short_side=config.short_side,
            side=self.clip.image_size,
            regions=config.regions,
            component_share=config.component_share,
            modes=config.modes,
        )
        self._predictor = None
        if config.proposals:
            self._predictor = MaskPredictor(Path(config.proposals), config.short_side)
        self.dataset = RegionDataset(records, classes.ignore, self._crops, self._predictor, config.remembered_images)
        self.module = ContrastiveModule(self.clip, classes.vocabulary, config)

    def collate(self, items: list[ClipBatch]) -> ClipBatch:
        """Join the regions of all images."""
        return _joined(items)

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Return one group with all trained parameters."""
        return [(1.0, [p for p in self.module.parameters() if p.requires_grad])]

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """Return zero-shot top-1 of regions shown as ``cropmask``, on roughened true masks and on predicted ones."""
        if self._validation is None:
            return {}
        text = text_features(self.clip, self._classes.vocabulary, IMAGE_BRANCH)
        settings = CropSettings(**{**_fields(self._crops), "regions": 99, "modes": {"cropmask": 1.0}})
        dataset = RegionDataset(self._validation, self._classes.ignore, settings, self._predictor)
        right = {"true": 0, "predicted": 0}
        total = {"true": 0, "predicted": 0}
        for position in range(len(dataset)):
            batch = dataset[position, position]
            if len(batch.labels) == 0:
                continue
            similarity = self.clip.encode_image(batch.images) @ text.T
            correct = similarity.argmax(1).cpu() == batch.labels
            predicted = batch.no_object_logits.isfinite()
            for kind, rows in (("true", ~predicted), ("predicted", predicted)):
                right[kind] += int(correct[rows].sum())
                total[kind] += int(rows.sum())
        return {f"top1_on_{kind}_masks": right[kind] / total[kind] for kind in right if total[kind]}

    def export(self, directory: Path) -> None:
        """Write clip.safetensors, clip.json and bpe.txt.gz."""
        save_clip(self.clip, directory)


def fresh_clip(model: dict[str, Any], vocabulary: Vocabulary, out: Path) -> Clip:
    """Return an untrained CLIP whose tokens are the words of ``vocabulary`` and of all prompt templates."""
    names = [name for entry in vocabulary for name in entry.names]
    templates = [template.replace("{}", " ") for templates, _ in TEMPLATE_SETS for template in templates]
    merges = learn_merges(words_of([*names, *templates]))
    out.mkdir(parents=True, exist_ok=True)
    merges_path = out / "merges.txt.gz"
    write_merges(merges, merges_path)
    byte_tokens, special_tokens = 512, 2
    text = {**model["text_cfg"], "vocab_size": byte_tokens + len(merges) + special_tokens}
    return new_clip({**model, "text_cfg": text}, bpe_path=merges_path)


def _freeze_text(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not name.startswith("visual.") and name != "logit_scale":
            parameter.requires_grad_(False)


def _fields(settings: CropSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in CropSettings.__dataclass_fields__}
