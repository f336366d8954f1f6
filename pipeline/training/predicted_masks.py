"""Predicts masks with a trained grouping model, and labels each with its ground truth class, for training CLIP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.model.images.preprocess import normalise, pad_to_multiple
from maskmill.model.images.resize import resize_short_side
from maskmill.model.zegformer.checkpoint import load_zegformer

LEAST_PURITY = 0.6
"""The share of a mask's pixels that must be of one class for the mask to get that class."""
LEAST_PIXELS = 24
"""Masks with fewer pixels of the resized image are left out, since CLIP cannot learn from them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledMasks:
    """The predicted masks of one image that are mostly of one class.

    mask_logits: (N, h, w) float16 at stride 4 of the padded input. labels: (N,) int64 class ids.
    no_object_logits: (N,) float32 of the query branch.
    """

    mask_logits: Tensor
    labels: Tensor
    no_object_logits: Tensor


class MaskPredictor:
    """A frozen grouping model that proposes masks for training images."""

    def __init__(self, weights: Path, short_side: int) -> None:
        self._model = load_zegformer(weights).eval().requires_grad_(False)
        self._short_side = short_side

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, label: np.ndarray, ignore: int) -> LabelledMasks:
        """Return the labelled masks of an image (H, W, 3) uint8 whose class ids are ``label`` (H, W)."""
        resized = resize_short_side(image, self._short_side)
        pixels = pad_to_multiple([normalise(resized)])
        output = self._model(pixels, every_layer=False).layers[-1]
        logits = output.mask_logits[0]
        height, width = resized.shape[:2]
        inside = F.interpolate(logits[None], size=pixels.shape[-2:], mode="bilinear")[0, :, :height, :width] > 0
        labels = true_classes(inside, label, ignore)
        kept = labels >= 0
        return LabelledMasks(
            mask_logits=logits[kept].half(),
            labels=labels[kept],
            no_object_logits=output.no_object_logits[0][kept].float(),
        )


def true_classes(masks: Tensor, label: np.ndarray, ignore: int) -> Tensor:
    """Return (Q,) int64: the class most pixels of each mask (Q, h, w) bool belong to, -1 where no class prevails.

    label: (H, W) class ids, resized to the masks by nearest neighbour; pixels of ``ignore`` do not count.
    """
    resized = F.interpolate(torch.from_numpy(label)[None, None].double(), size=masks.shape[-2:], mode="nearest")
    flat = resized.long().flatten()
    result = torch.full((len(masks),), -1, dtype=torch.int64)
    for index, mask in enumerate(masks.flatten(1)):
        values = flat[mask]
        values = values[values != ignore]
        if len(values) < LEAST_PIXELS:
            continue
        counts = torch.bincount(values)
        if counts.max() >= LEAST_PURITY * len(values):
            result[index] = counts.argmax()
    return result
