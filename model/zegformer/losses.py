"""Training losses of class-agnostic grouping and of the per-pixel baseline (paper section 4.2; released recipe).

Legend for shapes: B images, Q queries, C classes, T targets of one image, N matched pairs of the whole batch,
H x W target pixels, h x w mask cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.model.zegformer.matcher import (
    FOCAL_ALPHA,
    FOCAL_GAMMA,
    UNNAMED,
    LossWeights,
    MaskLoss,
    Match,
    Target,
    match,
)

LayerLogits = tuple[Tensor, Tensor]
"""(class_logits (B, Q, C + 1), mask_logits (B, Q, h, w)) of one decoder layer."""


def segmentation_losses(
    layers: Sequence[LayerLogits], targets: list[Target], weights: LossWeights, target_count: float | None = None
) -> dict[str, Tensor]:
    """Unweighted losses of every decoder layer, each matched for itself (deep supervision).

    ``layers`` in decoder order; the last one's losses are named ``loss_ce``, ``loss_mask`` and ``loss_dice``, those of
    earlier layer i carry the suffix ``_i``. ``target_count`` is what mask and dice losses are divided by: the number
    of targets per worker, at least 1; None counts the targets given here. The losses of a batch without any target
    are zero with zero gradients, except the cross-entropy.
    """
    if target_count is None:
        target_count = float(sum(len(target.labels) for target in targets))
    target_count = max(target_count, 1.0)
    losses = {}
    for index, (class_logits, mask_logits) in enumerate(layers):
        suffix = "" if index == len(layers) - 1 else f"_{index}"
        matches = match(class_logits, mask_logits, targets, weights)
        losses[f"loss_ce{suffix}"] = classification_loss(class_logits, targets, matches, weights.no_object)
        mask_loss, dice_loss = mask_losses(mask_logits, targets, matches, weights.mask_loss)
        losses[f"loss_mask{suffix}"] = mask_loss / target_count
        losses[f"loss_dice{suffix}"] = dice_loss / target_count
    return losses


def total_loss(losses: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """The weighted sum that is minimised."""
    factors = {"loss_ce": weights.classification, "loss_mask": weights.mask, "loss_dice": weights.dice}
    terms = []
    for name, value in losses.items():
        kind = "_".join(name.split("_")[:2])
        terms.append(factors[kind] * value)
    return torch.stack(terms).sum()


def classification_loss(
    class_logits: Tensor, targets: list[Target], matches: list[Match], no_object_weight: float
) -> Tensor:
    """Cross-entropy of every query; those without a target should say "no object", which weighs less.

    Queries of unnamed targets do not count; a batch in which no query counts gives 0.
    """
    no_object = class_logits.shape[-1] - 1
    expected_BQ = torch.full(class_logits.shape[:2], no_object, dtype=torch.int64, device=class_logits.device)
    for row_Q, target, pairs in zip(expected_BQ, targets, matches, strict=True):
        row_Q[pairs.queries] = target.labels[pairs.targets]
    class_weight = torch.ones(no_object + 1, dtype=torch.float32, device=class_logits.device)
    class_weight[no_object] = no_object_weight
    if (expected_BQ == UNNAMED).all():
        return class_logits.float().sum() * 0.0
    return F.cross_entropy(
        class_logits.float().flatten(0, 1), expected_BQ.flatten(), class_weight, ignore_index=UNNAMED
    )


def mask_losses(
    mask_logits: Tensor, targets: list[Target], matches: list[Match], mask_loss: MaskLoss
) -> tuple[Tensor, Tensor]:
    """Sums over the matched pairs of (per-pixel loss averaged over pixels, dice loss)."""
    sum_pixel, sum_dice = mask_logits.float().sum() * 0.0, mask_logits.float().sum() * 0.0
    for masks_Qhw, target, pairs in zip(mask_logits, targets, matches, strict=True):
        if len(pairs.queries) == 0:
            continue
        size = target.masks.shape[-2:]
        upsampled = F.interpolate(masks_Qhw.index_select(0, pairs.queries).float()[None], size=size, mode="bilinear")
        logits_NP = upsampled[0].flatten(1)
        expected_NP = target.masks[pairs.targets].flatten(1).float()
        if target.valid is not None:
            valid_P = target.valid.flatten()
            logits_NP, expected_NP = logits_NP[:, valid_P], expected_NP[:, valid_P]
        if logits_NP.shape[1]:
            sum_pixel = sum_pixel + _pixel_loss(logits_NP, expected_NP, mask_loss).mean(1).sum()
        sum_dice = sum_dice + _dice_loss(logits_NP, expected_NP).sum()
    return sum_pixel, sum_dice


def _pixel_loss(logits_NP: Tensor, expected_NP: Tensor, mask_loss: MaskLoss) -> Tensor:
    loss_NP = F.binary_cross_entropy_with_logits(logits_NP, expected_NP, reduction="none")
    if mask_loss == "bce":
        return loss_NP
    probability_NP = logits_NP.sigmoid()
    miss_NP = probability_NP * (1 - expected_NP) + (1 - probability_NP) * expected_NP
    alpha_NP = FOCAL_ALPHA * expected_NP + (1 - FOCAL_ALPHA) * (1 - expected_NP)
    return alpha_NP * loss_NP * miss_NP**FOCAL_GAMMA


def _dice_loss(logits_NP: Tensor, expected_NP: Tensor) -> Tensor:
    probability_NP = logits_NP.sigmoid()
    overlap_N = 2 * (probability_NP * expected_NP).sum(1)
    return 1 - (overlap_N + 1) / (probability_NP.sum(1) + expected_NP.sum(1) + 1)


def segment_pixel_loss(class_logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Cross-entropy averaged over the pixels of every segment, then over segments: small ones count like large ones.

    class_logits: (B, C, H, W). labels: (B, H, W) int64; a segment is all pixels of one class in one image. 0 with zero
    gradients where every pixel is ``ignore``.
    """
    loss_BHW = F.cross_entropy(class_logits.float(), labels, ignore_index=ignore, reduction="none")
    terms = []
    for loss_HW, label_HW in zip(loss_BHW, labels, strict=True):
        known = label_HW != ignore
        _, segment, pixels = label_HW[known].unique(return_inverse=True, return_counts=True)
        terms.append(loss_HW[known] / pixels[segment])
    segments = sum(len(label_HW[label_HW != ignore].unique()) for label_HW in labels)
    return torch.cat(terms).sum() / max(segments, 1)


def per_pixel_loss(class_logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Cross-entropy at every pixel that is not ``ignore``; 0 with zero gradients where all are.

    class_logits: (B, C, h, w), resized to the labels by bilinear interpolation. labels: (B, H, W) int64.
    """
    resized = F.interpolate(class_logits.float(), size=labels.shape[-2:], mode="bilinear")
    total = F.cross_entropy(resized, labels, ignore_index=ignore, reduction="sum")
    return total / max(int((labels != ignore).sum()), 1)
