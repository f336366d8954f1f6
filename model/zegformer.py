"""ZegFormer's trained network: images to class-agnostic segments with an embedding each (paper section 3).

Legend for shapes: B images, Q queries, C classes, D embedding size, M mask dimension, H x W pixels, h x w = stride 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.backbone import Backbone
from model.config import ZegFormerConfig
from model.pixel_decoder import PixelDecoder
from model.transformer import Transformer

TEMPERATURE = 0.01
"""Cosine similarities are divided by this to become logits (the release's fixed value)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerOutput:
    """What one decoder layer says.

    query_embeddings: (B, Q, D), L2-normalised, comparable with text embeddings.
    no_object_logits: (B, Q), already divided by the temperature.
    mask_logits: (B, Q, h, w) at stride 4 of the padded input.
    """

    query_embeddings: Tensor
    no_object_logits: Tensor
    mask_logits: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ZegFormerOutput:
    """layers: one per decoder layer, last is final (only the final one with ``every_layer=False``).

    mask_features: (B, M, h, w) at stride 4.
    features: res2..res5 of the backbone and p2..p5 of the pixel decoder, each (B, channels, h_s, w_s).
    queries: (B, Q, hidden), the final layer's normalised query states.
    """

    layers: list[LayerOutput]
    mask_features: Tensor
    features: dict[str, Tensor]
    queries: Tensor


def class_logits(query_embeddings: Tensor, no_object_logits: Tensor, text: Tensor) -> Tensor:
    """Return logits over classes plus "no object" as last column, (..., Q, C + 1) (paper equation 2).

    query_embeddings: (..., Q, D) L2-normalised; no_object_logits: (..., Q); text: (C, D) L2-normalised.
    """
    return torch.cat((query_embeddings @ text.T / TEMPERATURE, no_object_logits[..., None]), dim=-1)


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


class ZegFormer(nn.Module):
    """Backbone, pixel decoder, transformer and the two heads of every query."""

    def __init__(self, config: ZegFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone)
        self.pixel_decoder = PixelDecoder(config.backbone.stage_channels, config.conv_dim, config.mask_dim)
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
        self.class_projection = nn.Linear(config.hidden_dim, config.embedding_dim)
        self.no_object_embedding = nn.Parameter(torch.empty(1, config.embedding_dim))
        nn.init.kaiming_uniform_(self.input_projection.weight, a=1)
        nn.init.kaiming_uniform_(self.no_object_embedding, a=math.sqrt(5))

    def forward(self, images: Tensor, *, every_layer: bool = True) -> ZegFormerOutput:
        """Propose segments.

        images: (B, 3, H, W) RGB, normalised and padded (``model.preprocess``); H and W multiples of 32.
        every_layer: also give the outputs of the earlier decoder layers (for training).
        """
        features = self.backbone(images)
        mask_features, pyramid = self.pixel_decoder(features)
        features = {**features, **pyramid}
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
        layers = [self._layer_output(queries, mask_features) for queries in (states if every_layer else states[-1:])]
        return ZegFormerOutput(layers=layers, mask_features=mask_features, features=features, queries=states[-1])

    def _layer_output(self, queries: Tensor, mask_features: Tensor) -> LayerOutput:
        embeddings = F.normalize(self.class_projection(queries), dim=-1)
        return LayerOutput(
            query_embeddings=embeddings,
            no_object_logits=(embeddings @ self.no_object_embedding.T)[..., 0] / TEMPERATURE,
            mask_logits=self._mask_logits(queries, mask_features),
        )

    def _mask_logits(self, queries: Tensor, mask_features: Tensor) -> Tensor:
        return torch.einsum("bqm,bmhw->bqhw", self.mask_embedding(queries), mask_features)

    @torch.no_grad()
    def _hidden_cells(self, queries: Tensor, memory_mask_features: Tensor) -> Tensor:
        """Memory cells (B, Q, L) outside each query's mask; a query with an empty mask sees everything."""
        outside = self._mask_logits(queries, memory_mask_features).flatten(2) < 0
        return outside & ~outside.all(dim=-1, keepdim=True)
