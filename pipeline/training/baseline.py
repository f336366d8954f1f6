"""Trains the per-pixel baseline on the data and schedule of grouping (paper section 4.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from maskmill.model.clip.loading import load_clip
from maskmill.model.zegformer.baseline import BaselineConfig, PerPixelBaseline, pixel_logits
from maskmill.model.zegformer.checkpoint import save_baseline
from maskmill.model.zegformer.losses import per_pixel_loss
from maskmill.pipeline.training.classes import TrainingClasses
from maskmill.pipeline.training.grouping import backbone_and_rest, load_backbone, seen_text
from maskmill.pipeline.training.record_store import RecordStore
from maskmill.pipeline.training.segmentation import (
    IGNORED,
    SegmentationBatch,
    SegmentationData,
    SegmentationDataset,
    collate,
)
from maskmill.pipeline.training.settings import LoopSettings


class PerPixelConfig(BaseModel):
    """Settings of ``maskmill train baseline``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loop: LoopSettings
    model: dict[str, Any] = Field(
        default_factory=dict, description="BaselineConfig; embedding_dim is taken from the CLIP."
    )
    data: SegmentationData = Field(default_factory=SegmentationData)
    clip: str = Field(description="CLIP whose text embeddings name the classes.")
    prompts: Literal["single", "imagenet_select", "imagenet"] = Field("single", description="Prompt templates.")
    backbone_factor: float = Field(0.1, ge=0, description="Learning rate of the backbone relative to the rest.")
    backbone_weights: str | None = Field(
        None, description="File of torchvision ResNet weights the backbone starts from."
    )


class BaselineModule(nn.Module):
    """The baseline with its loss, the cross-entropy against the seen classes."""

    text_SD: Tensor

    def __init__(self, network: PerPixelBaseline, text_SD: Tensor, precision: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("text_SD", text_SD, persistent=False)
        self._precision = precision

    def forward(self, batch: SegmentationBatch) -> dict[str, Tensor]:
        """Return the cross-entropy over all labelled pixels as "loss"."""
        device = self.text_SD.device
        images, labels = batch.images.to(device), batch.labels.to(device)
        with torch.autocast(device.type, self._precision, enabled=self._precision != torch.float32):
            embeddings = self.network(images)
        logits = pixel_logits(embeddings.float(), self.text_SD, (labels.shape[-2], labels.shape[-1]))
        return {"loss": per_pixel_loss(logits, labels, IGNORED)}


class BaselineTraining:
    """The task ``maskmill train baseline`` runs (see ``loop.Task``)."""

    def __init__(self, config: PerPixelConfig, records: RecordStore, classes: TrainingClasses) -> None:
        self.config = {**config.model_dump(mode="json"), "records": records.fingerprint}
        self._factor = config.backbone_factor
        clip = load_clip(config.clip)
        network = PerPixelBaseline(BaselineConfig.from_dict({**config.model, "embedding_dim": clip.embed_dim}))
        if config.backbone_weights:
            load_backbone(network.backbone, Path(config.backbone_weights))
        self.dataset = SegmentationDataset(records, classes, config.data)
        text_SD = seen_text(clip, classes, config.prompts)
        self.module = BaselineModule(network, text_SD, getattr(torch, config.loop.precision))

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
        """Write the weights and their configuration."""
        save_baseline(self.module.network, directory)
