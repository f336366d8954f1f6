"""Trains class-agnostic grouping: ZegFormer's network, on seen classes only (paper section 3.4; release section 8).

Legend for shapes: B images, Q queries, S seen classes, D embedding size, M mask features, h x w mask cells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from maskmill.model.clip.clip import Clip
from maskmill.model.clip.loading import load_clip
from maskmill.model.clip.prompts import prompt_set
from maskmill.model.clip.text import text_features
from maskmill.model.naming.scoring import class_logits
from maskmill.model.vocabulary import Vocabulary
from maskmill.model.zegformer.backbone import Backbone
from maskmill.model.zegformer.checkpoint import load_zegformer, save_zegformer
from maskmill.model.zegformer.config import ZegFormerConfig
from maskmill.model.zegformer.losses import segment_pixel_loss, segmentation_losses, total_loss
from maskmill.model.zegformer.matcher import UNNAMED, LossWeights, Target
from maskmill.model.zegformer.network import ZegFormer
from maskmill.model.zegformer.training_classes import SEEN_CLASSES_KEY
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.training.classes import TrainingClasses
from maskmill.pipeline.training.record_store import RecordStore
from maskmill.pipeline.training.segmentation import (
    IGNORED,
    SegmentationBatch,
    SegmentationData,
    SegmentationDataset,
    collate,
)
from maskmill.pipeline.training.settings import LoopSettings

AUXILIARY_TEMPERATURE = 0.05
"""Softer than the queries' 0.01, because pixels only have to be separated, not named."""


class LossSettings(BaseModel):
    """The weights of the losses; the defaults are those of the release."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classification: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")
    mask: float = Field(20.0, ge=0, description="Weight of the per-pixel mask loss.")
    dice: float = Field(1.0, ge=0, description="Weight of the dice loss.")
    no_object: float = Field(0.1, ge=0, description="Weight of the no-object class in the cross-entropy.")
    mask_loss: Literal["focal", "bce"] = Field("focal", description="Per-pixel mask loss.")
    ignored_as_background: bool = Field(True, description="Ignored pixels count in mask losses, as in the release.")
    per_pixel: float = Field(
        0.0, ge=0, description="Weight of an auxiliary classification of the pixels of each segment; 0: none."
    )

    def weights(self) -> LossWeights:
        """Return the weights in the form that the matcher and the losses take."""
        return LossWeights(**self.model_dump(exclude={"ignored_as_background", "per_pixel"}))


class GroupingConfig(BaseModel):
    """Settings of ``maskmill train grouping``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loop: LoopSettings
    model: dict[str, Any] = Field(
        default_factory=dict, description="ZegFormerConfig; embedding_dim is taken from the CLIP. Not used with init."
    )
    data: SegmentationData = Field(default_factory=SegmentationData)
    losses: LossSettings = Field(default_factory=LossSettings)
    clip: str = Field(description="CLIP whose text embeddings name the classes.")
    prompts: Literal["single", "imagenet_select", "imagenet"] = Field("single", description="Prompt templates.")
    backbone_factor: float = Field(0.1, ge=0, description="Learning rate of the backbone relative to the rest.")
    init: str | None = Field(None, description="A trained grouping model (folder) to go on from.")
    backbone_weights: str | None = Field(
        None, description="File of torchvision ResNet weights the backbone starts from."
    )


class GroupingModule(nn.Module):
    """ZegFormer with its losses against the seen classes."""

    text_SD: Tensor

    def __init__(self, network: ZegFormer, text_SD: Tensor, losses: LossSettings, precision: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("text_SD", text_SD, persistent=False)
        self._losses, self._precision = losses, precision
        self.pixel_projection = None
        if losses.per_pixel:
            self.pixel_projection = nn.Conv2d(network.config.conv_dim, network.config.embedding_dim, kernel_size=1)

    def forward(self, batch: SegmentationBatch) -> dict[str, Tensor]:
        """Return the weighted sum as "loss" and the last layer's losses by name."""
        device = self.text_SD.device
        images, labels = batch.images.to(device), batch.labels.to(device)
        with torch.autocast(device.type, self._precision, enabled=self._precision != torch.float32):
            output = self.network(images)
        layers = [
            (
                class_logits(layer.query_embeddings.float(), layer.no_object_logits.float(), self.text_SD),
                layer.mask_logits.float(),
            )
            for layer in output.layers
        ]
        named = batch.named.tolist()
        targets = [
            targets_of(label, self._losses.ignored_as_background, is_named)
            for label, is_named in zip(labels, named, strict=True)
        ]
        weights = self._losses.weights()
        losses = segmentation_losses(layers, targets, weights, _targets_per_worker(targets, device))
        loss = total_loss(losses, weights)
        shown = {name: value for name, value in losses.items() if name.count("_") == 1}
        if self.pixel_projection is not None:
            pixels = output.features["p2"]
            at_cells = F.interpolate(labels[:, None].double(), size=pixels.shape[-2:], mode="nearest")[:, 0].long()
            at_cells[~batch.named.to(device)] = IGNORED
            # Take every second cell in both directions: with many classes, all cells would cost as much as the network.
            embeddings = F.normalize(self.pixel_projection(pixels[..., ::2, ::2].float()), dim=1)
            logits = torch.einsum("bdhw,sd->bshw", embeddings, self.text_SD) / AUXILIARY_TEMPERATURE
            shown["loss_pixel"] = segment_pixel_loss(logits, at_cells[:, ::2, ::2], IGNORED)
            loss = loss + self._losses.per_pixel * shown["loss_pixel"]
        return {"loss": loss, **shown}


def targets_of(label: Tensor, ignored_as_background: bool, named: bool = True) -> Target:
    """Make one target per class of a label map (H, W) of class ids or IGNORED. named: whether targets get a class."""
    classes = label.unique()
    classes = classes[classes != IGNORED]
    known = label != IGNORED
    valid = None if ignored_as_background or known.all() else known
    labels = classes if named else torch.full_like(classes, UNNAMED)
    return Target(labels=labels, masks=label[None] == classes[:, None, None], valid=valid)


def _targets_per_worker(targets: list[Target], device: torch.device) -> float:
    """Return the mean number of targets per worker, so that the gradient does not depend on the number of workers."""
    count = torch.tensor(float(sum(len(target.labels) for target in targets)), device=device)
    if dist.is_initialized():
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return float(count)


class GroupingTraining:
    """The task ``maskmill train grouping`` runs (see ``loop.Task``)."""

    def __init__(self, config: GroupingConfig, records: RecordStore, classes: TrainingClasses) -> None:
        self.config = {**config.model_dump(mode="json"), "records": records.fingerprint}
        self._factor = config.backbone_factor
        clip = load_clip(config.clip)
        if config.init:
            network = load_zegformer(config.init)
        else:
            network = ZegFormer(ZegFormerConfig.from_dict({**config.model, "embedding_dim": clip.embed_dim}))
        if config.backbone_weights:
            load_backbone(network.backbone, Path(config.backbone_weights))
        self.dataset = SegmentationDataset(records, classes, config.data)
        text_SD = seen_text(clip, classes, config.prompts)
        self._seen_names = [classes.vocabulary.names[class_id] for class_id in classes.seen_ids]
        self.module = GroupingModule(network, text_SD, config.losses, getattr(torch, config.loop.precision))

    def collate(self, items: list[SegmentationBatch]) -> SegmentationBatch:
        """Stack images and label maps."""
        return collate(items)

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Return the backbone with its factor on the learning rate, and the rest."""
        return backbone_and_rest(self.module, self._factor)

    def evaluate(self) -> dict[str, float]:
        """Return no figure: ``maskmill evaluate`` measures a trained model, on any data."""
        return {}

    def export(self, directory: Path) -> None:
        """Write zegformer.safetensors, and zegformer.json with the names of the classes trained on."""
        save_zegformer(self.module.network, directory)
        describe(directory / "zegformer.json", {SEEN_CLASSES_KEY: list(self._seen_names)})


def describe(path: Path, entries: Mapping[str, Any]) -> None:
    """Add ``entries`` to the JSON object in ``path``."""
    description = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**description, **entries}, indent=2) + "\n", encoding="utf-8")


def seen_text(clip: Clip, classes: TrainingClasses, prompts: str) -> Tensor:
    """Return the (S, D) text embeddings of the seen classes, in the order of ``seen_ids``."""
    seen = Vocabulary([classes.vocabulary.entries[class_id] for class_id in classes.seen_ids])
    # Return a copy, because tensors made in inference mode cannot be used in training.
    return text_features(clip, seen, prompt_set(prompts)).clone()


def load_backbone(backbone: Backbone, path: Path) -> None:
    """Fill a backbone from a torchvision ResNet state dict (``layer1`` .. ``layer4``; the classifier is left out).

    Raises UsageError when the file does not hold exactly the backbone's weights.
    """
    if not path.is_file():
        raise UsageError(f"backbone_weights: there is no file {path}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    renamed = {}
    for key, value in state.items():
        stage, _, rest = key.partition(".")
        if stage == "fc":
            continue
        name = f"stages.res{int(stage[-1]) + 1}.{rest}" if stage.startswith("layer") else key
        renamed[name] = value
    expected = set(backbone.state_dict())
    # Leave out the batch counts, which a frozen batch norm does not have.
    given = {key: value for key, value in renamed.items() if key in expected or not key.endswith("num_batches_tracked")}
    if set(given) != expected:
        missing, unexpected = sorted(expected - set(given)), sorted(set(given) - expected)
        raise UsageError(f"{path} does not fit the backbone; missing: {missing[:5]}, unexpected: {unexpected[:5]}")
    backbone.load_state_dict(given)


def backbone_and_rest(module: nn.Module, factor: float) -> list[tuple[float, list[nn.Parameter]]]:
    """Split the parameters of a module whose network has a ``backbone``."""
    backbone = [p for name, p in module.named_parameters() if ".backbone." in name]
    rest = [p for name, p in module.named_parameters() if ".backbone." not in name]
    return [(factor, backbone), (1.0, rest)]
