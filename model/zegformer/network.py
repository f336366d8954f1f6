"""ZegFormer's trained network: images to class-agnostic segments with an embedding each (paper section 3).

Legend for shapes: B images, Q queries, C classes, D embedding size, M mask dimension, H x W pixels, h x w mask cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from maskmill.model.images.boxes import mask_boxes
from maskmill.model.zegformer.backbone import Backbone
from maskmill.model.zegformer.config import RELEASED_TEMPERATURE, BackboneConfig, MaskStride, ZegFormerConfig
from maskmill.model.zegformer.pixel_decoder import PixelDecoder
from maskmill.model.zegformer.transformer import Transformer


class FeatureConfig(Protocol):
    """What the configurations of ZegFormer and of the per-pixel baseline share."""

    @property
    def backbone(self) -> BackboneConfig: ...
    @property
    def conv_dim(self) -> int: ...
    @property
    def mask_dim(self) -> int: ...
    @property
    def mask_stride(self) -> MaskStride: ...


TEMPERATURE = RELEASED_TEMPERATURE
"""Similarities are divided by this to become logits (the release's fixed value)."""

NAME_CELLS = 16
"""Side of the grid of cells a region is looked at with for its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerOutput:
    """What one decoder layer says.

    query_embeddings: (B, Q, D), comparable with text embeddings, of length ``TEMPERATURE`` / the model's temperature (1
        in the release).
    no_object_logits: (B, Q), already divided by the temperature.
    mask_logits: (B, Q, h, w) over the padded input.
    """

    query_embeddings: Tensor
    no_object_logits: Tensor
    mask_logits: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ZegFormerOutput:
    """layers: one per decoder layer, last is final (only the final one with ``every_layer=False``).

    mask_features: (B, M, h, w) at stride 4, or 2 if so configured.
    features: res2..res5 of the backbone and p2..p5 of the pixel decoder, each (B, channels, h_s, w_s); with
        ``every_layer=False`` of the backbone's only the transformer's memory.
    queries: (B, Q, hidden), the final layer's normalised query states.
    """

    layers: list[LayerOutput]
    mask_features: Tensor
    features: dict[str, Tensor]
    queries: Tensor


class MaskEmbedding(nn.Sequential):
    """Three linear layers, ReLU between, from a query (..., hidden) to its mask embedding (..., M)."""

    def __init__(self, hidden_dim: int, mask_dim: int) -> None:
        super().__init__(
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, mask_dim),
        )


class NameState(nn.Module):
    """From a query's state and the region under its mask to the state its name is made of.

    Names are learnt several times faster from the look and the outline of a segment than from the query alone. No
    gradient reaches the masks this way: they stay class-agnostic.
    """

    def __init__(self, hidden_dim: int, mask_dim: int) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(mask_dim + 1, hidden_dim, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden_dim, hidden_dim, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden_dim, hidden_dim, kernel_size=NAME_CELLS // 4),
            nn.ReLU(),
        )
        self.linear = nn.Linear(2 * hidden_dim, hidden_dim)

    def forward(self, queries: Tensor, mask_logits: Tensor, mask_features: Tensor) -> Tensor:
        """Map queries (B, Q, hidden), masks (B, Q, h, w) and mask features (B, M, h, w) to (B, Q, hidden)."""
        batch, count = mask_logits.shape[:2]
        flat = mask_logits.detach().float().flatten(0, 1)
        boxes = mask_boxes(flat)
        boxes[:, 2:] += 1
        own = torch.arange(len(boxes), device=boxes.device)
        masks = self._regions(flat.sigmoid()[:, None], own, boxes)
        looks = self._regions(mask_features.float(), own.div(count, rounding_mode="floor"), boxes)
        regions = torch.cat((looks * masks, masks), dim=1).to(queries.dtype)
        seen = self.look(regions).view(batch, count, -1)
        return F.relu(self.linear(torch.cat((queries, seen), dim=-1)))

    @staticmethod
    def _regions(maps: Tensor, source: Tensor, boxes: Tensor) -> Tensor:
        rois = torch.cat((source[:, None].to(boxes.dtype), boxes), dim=1)
        return roi_align(maps, rois, (NAME_CELLS, NAME_CELLS), sampling_ratio=1, aligned=True)


def feature_extractor(config: FeatureConfig) -> tuple[Backbone, PixelDecoder]:
    """Return the two parts that turn images into mask features."""
    stem_channels = config.backbone.stem_channels if config.mask_stride == 2 else None
    return (
        Backbone(config.backbone, with_stem=stem_channels is not None),
        PixelDecoder(config.backbone.stage_channels, config.conv_dim, config.mask_dim, stem_channels),
    )


class ZegFormer(nn.Module):
    """Backbone, pixel decoder, transformer and the two heads of every query."""

    def __init__(self, config: ZegFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.pixel_decoder = feature_extractor(config)
        self.input_projection = nn.Conv2d(config.memory_channels, config.hidden_dim, kernel_size=1)
        self.query_positions = nn.Parameter(torch.randn(config.queries, config.hidden_dim))
        self.transformer = Transformer(
            hidden_dim=config.hidden_dim,
            heads=config.heads,
            feedforward_dim=config.feedforward_dim,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            dropout=config.dropout,
        )
        self.mask_embedding = MaskEmbedding(config.hidden_dim, config.mask_dim)
        self.name_state = NameState(config.hidden_dim, config.mask_dim) if config.region_names else None
        self.class_projection = nn.Linear(config.hidden_dim, config.embedding_dim)
        self.no_object_embedding = nn.Parameter(torch.empty(1, config.embedding_dim))
        nn.init.kaiming_uniform_(self.input_projection.weight, a=1)
        nn.init.kaiming_uniform_(self.no_object_embedding, a=math.sqrt(5))

    def forward(self, images: Tensor, *, every_layer: bool = True) -> ZegFormerOutput:
        """Propose segments.

        images: (B, 3, H, W) RGB, normalised and padded (``maskmill.model.images.preprocess``); H and W multiples of 32.
        every_layer: also give the outputs of the earlier decoder layers (for training).
        """
        features = self.backbone(images)
        kept = {name: own for name, own in features.items() if every_layer or name == self.config.memory_feature}
        mask_features, pyramid = self.pixel_decoder(features)
        features = {**kept, **pyramid}
        memory = self.input_projection(features[self.config.memory_feature])
        hidden_cells = None
        if self.config.masked_attention:
            # Masks are linear in the mask features, so these can be brought to the memory's size once.
            memory_mask_features = F.interpolate(
                mask_features, size=memory.shape[-2:], mode="bilinear", align_corners=False
            )

            def hidden_cells(queries: Tensor) -> Tensor:
                return self._hidden_cells(queries, memory_mask_features)

        states = self.transformer(memory, self.query_positions, hidden_cells)
        layers = [self._layer_output(queries, mask_features) for queries in (states[:-1] if every_layer else [])]
        layers.append(self._layer_output(states[-1], mask_features, is_last=True))
        return ZegFormerOutput(layers=layers, mask_features=mask_features, features=features, queries=states[-1])

    def _layer_output(self, queries: Tensor, mask_features: Tensor, *, is_last: bool = False) -> LayerOutput:
        """Say what a layer's queries stand for. Regions are looked at in the last layer only: it takes time."""
        mask_logits = self._mask_logits(queries, mask_features)
        if self.name_state is not None and is_last:
            queries = self.name_state(queries, mask_logits, mask_features)
        # Shorter embeddings are a higher temperature, of which nobody else needs to know.
        length = TEMPERATURE / self.config.temperature
        embeddings = length * F.normalize(self.class_projection(queries), dim=-1)
        return LayerOutput(
            query_embeddings=embeddings,
            no_object_logits=(embeddings @ self.no_object_embedding.T)[..., 0] / TEMPERATURE,
            mask_logits=mask_logits,
        )

    def _mask_logits(self, queries: Tensor, mask_features: Tensor) -> Tensor:
        return torch.einsum("bqm,bmhw->bqhw", self.mask_embedding(queries), mask_features)

    @torch.no_grad()
    def _hidden_cells(self, queries: Tensor, memory_mask_features: Tensor) -> Tensor:
        """Memory cells (B, Q, L) outside each query's mask; a query with an empty mask sees everything."""
        outside = self._mask_logits(queries, memory_mask_features).flatten(2) < 0
        return outside & ~outside.all(dim=-1, keepdim=True)
