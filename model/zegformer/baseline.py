"""The per-pixel baseline of the paper, SPNet-FPN: every pixel has an embedding that is compared with the class names.

Same backbone and pixel decoder as ZegFormer, no queries: grouping and naming are not decoupled (paper section 4.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.model.zegformer.config import (
    RELEASED_TEMPERATURE,
    BackboneConfig,
    MaskStride,
    json_values,
    reject_unknown_keys,
    require_conv_dim,
    require_positive,
    require_temperature,
)
from maskmill.model.zegformer.network import TEMPERATURE, feature_extractor


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineConfig:
    """Sizes of the baseline; each means what it means in ``ZegFormerConfig``."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    conv_dim: int = 256
    mask_dim: int = 256
    embedding_dim: int = 512
    mask_stride: MaskStride = 4
    temperature: float = RELEASED_TEMPERATURE

    def __post_init__(self) -> None:
        require_positive(self, "conv_dim", "mask_dim", "embedding_dim")
        require_conv_dim(self.conv_dim, self.mask_stride)
        require_temperature(self.temperature)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return json_values(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BaselineConfig:
        """Build from ``to_dict``'s values; unknown keys are a ValueError that lists the valid ones."""
        reject_unknown_keys(cls, values)
        return cls(**{**values, "backbone": BackboneConfig.from_dict(values.get("backbone", {}))})


class PerPixelBaseline(nn.Module):
    """Backbone, pixel decoder and a 1x1 projection into the space of the text embeddings."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.pixel_decoder = feature_extractor(config)
        self.class_projection = nn.Conv2d(config.mask_dim, config.embedding_dim, kernel_size=1)
        nn.init.kaiming_normal_(self.class_projection.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised, padded images (B, 3, H, W) to embeddings (B, D, h, w) at the mask stride.

        As with a query, their length is ``TEMPERATURE`` / the model's temperature.
        """
        mask_features, _ = self.pixel_decoder(self.backbone(images))
        return TEMPERATURE / self.config.temperature * F.normalize(self.class_projection(mask_features), dim=1)


def pixel_logits(pixel_embeddings: Tensor, text: Tensor, size: tuple[int, int]) -> Tensor:
    """Return class logits of every pixel, (B, C, height, width).

    pixel_embeddings: (B, D, h, w); text: (C, D) L2-normalised.
    size: (height, width) of the padded input; logits are upsampled to it bilinearly, as released.
    """
    logits = torch.einsum("bdhw,cd->bchw", pixel_embeddings, text) / TEMPERATURE
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
