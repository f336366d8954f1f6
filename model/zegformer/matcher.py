"""Which query answers for which ground-truth segment: the Hungarian matching of DETR and MaskFormer (section 8).

Legend for shapes: B images, Q queries, C classes, T targets of one image, H x W target pixels, h x w mask cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0

MaskLoss = Literal["focal", "bce"]

UNNAMED = -1
"""Label of a target without a class: it is matched by its mask, and its query is taught no name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Ground truth of one training image.

    labels: (T,) int64 class ids, indices into the text embeddings the queries are compared with; UNNAMED for a
        segment that teaches its mask only.
    masks: (T, H, W) bool, one per label.
    valid: (H, W) bool, False where the ground truth says "ignore"; None counts every pixel, as the release does
        (there an ignored pixel is background in every mask).
    """

    labels: Tensor
    masks: Tensor
    valid: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """Weights shared by matching costs and losses; the defaults are the released recipe's."""

    classification: float = 1.0
    mask: float = 20.0
    dice: float = 1.0
    no_object: float = 0.1
    """Weight of the no-object class inside the cross-entropy."""
    mask_loss: MaskLoss = "focal"
    """Per-pixel loss of a mask: "focal" (alpha 0.25, gamma 2; the release) or plain "bce"."""

    def __post_init__(self) -> None:
        if self.mask_loss not in ("focal", "bce"):
            raise ValueError(f"mask_loss is {self.mask_loss!r}; choose from: focal, bce")
        for name in ("classification", "mask", "dice", "no_object"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")


@dataclass(frozen=True, slots=True)
class Match:
    """Pairs of one image: query ``queries[i]`` answers for target ``targets[i]``. Both (min(Q, T),) int64."""

    queries: Tensor
    targets: Tensor


@torch.no_grad()
def match(class_logits: Tensor, mask_logits: Tensor, targets: list[Target], weights: LossWeights) -> list[Match]:
    """Assign every target of every image to a different query at the least total cost.

    class_logits: (B, Q, C + 1), the last column "no object". mask_logits: (B, Q, h, w). Targets are resized to
    h x w by nearest neighbour. Costs: -p(class), the mask loss and the dice loss, by ``weights``.
    Raises ValueError when a cost is not finite, which means that training has diverged.
    """
    matches = []
    for logits_QC, masks_Qhw, target in zip(class_logits.float(), mask_logits.float(), targets, strict=True):
        cost_QT = _cost(logits_QC, masks_Qhw, target, weights)
        if not torch.isfinite(cost_QT).all():
            raise ValueError("matching cost is not finite: the network's output holds NaN or infinity")
        queries, indices = linear_sum_assignment(cost_QT.cpu().numpy())
        matches.append(
            Match(
                torch.as_tensor(queries, dtype=torch.int64, device=mask_logits.device),
                torch.as_tensor(indices, dtype=torch.int64, device=mask_logits.device),
            )
        )
    return matches


def _cost(logits_QC: Tensor, masks_Qhw: Tensor, target: Target, weights: LossWeights) -> Tensor:
    """(Q, T) cost of giving each target to each query of one image."""
    size = masks_Qhw.shape[-2:]
    target_TP = F.interpolate(target.masks[:, None].float(), size=size, mode="nearest").flatten(1)
    masks_QP = masks_Qhw.flatten(1)
    if target.valid is not None:
        valid_P = F.interpolate(target.valid[None, None].float(), size=size, mode="nearest").flatten() > 0.5
        target_TP, masks_QP = target_TP[:, valid_P], masks_QP[:, valid_P]
    probability_QT = logits_QC.softmax(-1)[:, target.labels] * (target.labels != UNNAMED)
    return (
        -weights.classification * probability_QT
        + weights.mask * _mask_cost(masks_QP, target_TP, weights.mask_loss)
        + weights.dice * _dice_cost(masks_QP, target_TP)
    )


def _mask_cost(masks_QP: Tensor, target_TP: Tensor, mask_loss: MaskLoss) -> Tensor:
    """(Q, T) mean per-pixel loss of every query's mask against every target."""
    as_foreground_QP = F.softplus(-masks_QP)
    as_background_QP = as_foreground_QP + masks_QP
    if mask_loss == "focal":
        probability_QP = masks_QP.sigmoid()
        as_foreground_QP = as_foreground_QP * (1 - probability_QP) ** FOCAL_GAMMA * FOCAL_ALPHA
        as_background_QP = as_background_QP * probability_QP**FOCAL_GAMMA * (1 - FOCAL_ALPHA)
    pixels = max(masks_QP.shape[1], 1)
    return (as_foreground_QP @ target_TP.T + as_background_QP @ (1 - target_TP).T) / pixels


def _dice_cost(masks_QP: Tensor, target_TP: Tensor) -> Tensor:
    """(Q, T) dice loss of every query's mask against every target."""
    probability_QP = masks_QP.sigmoid()
    overlap_QT = 2 * probability_QP @ target_TP.T
    total_QT = probability_QP.sum(1)[:, None] + target_TP.sum(1)[None]
    return 1 - (overlap_QT + 1) / (total_QT + 1)
