"""Cuts the regions that CLIP is trained on out of training images, as the labelling job's region modes show them.

Legend for shapes: N regions, H x W padded pixels, S input side of CLIP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.model.clip.input import ClipInput
from maskmill.model.images.preprocess import pad_to_multiple
from maskmill.model.images.resize import resize_short_side
from maskmill.model.naming.regions import region_images


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionCrops:
    """Sub-images of one training image.

    images: (N, 3, S, S) float32, normalised for CLIP. labels: (N,) int64 class ids.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class CropSettings:
    """How regions are cut.

    short_side: pixels that images are resized to, as at inference. side: CLIP's input side S in pixels. regions: the
    most regions taken of one image. component_share: how often only one connected part of a class's region is taken.
    modes: share of each region mode.
    """

    short_side: int
    side: int
    regions: int
    component_share: float
    modes: dict[str, float]


def true_crops(image: np.ndarray, label: np.ndarray, ignore: int, settings: CropSettings, seed: int) -> RegionCrops:
    """Cut some regions of the ground truth, with masks roughened like predicted ones.

    image: (H, W, 3) uint8. label: (H, W) class ids, ``ignore`` where unknown. An image without any class gives N = 0.
    """
    rng = np.random.default_rng(seed)
    classes = np.unique(label)
    classes = classes[classes != ignore]
    chosen = rng.permutation(classes)[: settings.regions]
    masks = []
    for class_id in chosen:
        mask = label == class_id
        if rng.random() < settings.component_share:
            mask = _one_component(mask, rng)
        masks.append(mask)
    if not masks:
        return _no_crops(settings)
    pixels = padded_pixels(image, settings.short_side)
    scale = settings.short_side / min(image.shape[:2])
    size = (pixels.shape[1], pixels.shape[2])
    logits = torch.stack([rough_logits(mask, scale, size, rng) for mask in masks])
    return show(pixels, logits, torch.from_numpy(chosen), settings, rng)


def show(
    pixels: Tensor, logits: Tensor, labels: Tensor, settings: CropSettings, rng: np.random.Generator
) -> RegionCrops:
    """Cut regions out of ``pixels`` (3, H, W) by ``logits`` (N, H, W), mirrored half of the time, in drawn modes.

    Masks without any pixel are left out.
    """
    seen = (logits > 0).flatten(1).any(1)
    logits, labels = logits[seen], labels[seen]
    if rng.random() < 0.5:
        pixels, logits = pixels.flip(-1), logits.flip(-1)
    names = list(settings.modes)
    weights = np.array([settings.modes[name] for name in names])
    drawn = rng.choice(len(names), size=len(logits), p=weights / weights.sum())
    images, kept = [], []
    for index, name in enumerate(names):
        rows = torch.from_numpy(np.flatnonzero(drawn == index))
        if len(rows):
            regions = region_images(pixels, logits[rows], name, settings.side)
            images.append(regions.images[regions.image_index])
            kept.append(labels[rows])
    if not images:
        return _no_crops(settings)
    return RegionCrops(images=torch.cat(images), labels=torch.cat(kept))


def padded_pixels(image: np.ndarray, short_side: int) -> Tensor:
    """Return ``image`` resized, normalised for a new CLIP and padded as the labelling job does: (3, H, W)."""
    return pad_to_multiple([ClipInput().normalise(resize_short_side(image, short_side))])[0]


def rough_logits(mask: np.ndarray, scale: float, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Turn a true mask into (H, W) logits whose positive part has the faults of a predicted one.

    Edges are coarse, grown or shrunk and wavy; sometimes a neighbouring blob is added or a piece is missing.
    mask: bool before resizing by ``scale``; size: padded (H, W).
    """
    coarse = (
        max(1, round(mask.shape[0] / rng.uniform(1.0, 4.0))),
        max(1, round(mask.shape[1] / rng.uniform(1.0, 4.0))),
    )
    soft = F.interpolate(torch.from_numpy(mask)[None, None].float(), size=coarse, mode="area")
    logits = 2 * soft - 1 + rng.uniform(-0.4, 0.4)
    # Add waves only near the edge, since a predicted mask is certain in its middle and far outside.
    near_edge = 1 - (2 * F.avg_pool2d(soft, 5, stride=1, padding=2, count_include_pad=False) - 1) ** 2
    waves = torch.from_numpy(rng.standard_normal((1, 1, 17, 17))).float()
    logits = logits + rng.uniform(0, 0.8) * near_edge * F.interpolate(waves, size=coarse, mode="bilinear")
    if rng.random() < 0.3:
        logits = logits + _blob(mask, coarse, rng)
    height, width = (min(round(side * scale), limit) for side, limit in zip(mask.shape, size, strict=True))
    logits = F.interpolate(logits, size=(height, width), mode="bilinear")
    return F.pad(logits, (0, size[1] - width, 0, size[0] - height), value=-1.0)[0, 0]


def _blob(mask: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Return a disc around a random pixel of the mask, up to a third of its extent, that adds or removes pixels."""
    rows, columns = np.nonzero(mask)
    pick = rng.integers(len(rows))
    centre = (rows[pick] / mask.shape[0] * size[0], columns[pick] / mask.shape[1] * size[1])
    extent = max(np.ptp(rows) / mask.shape[0] * size[0], np.ptp(columns) / mask.shape[1] * size[1], 3.0)
    radius = extent * rng.uniform(0.1, 0.3)
    y, x = np.mgrid[: size[0], : size[1]]
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    strength = 2.5 if rng.random() < 0.5 else -2.5
    return torch.from_numpy(inside * strength).float()[None, None]


def _one_component(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    parts, count = scipy.ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())[1:]
    # Choose parts in proportion to their area, since queries rarely propose specks.
    return parts == 1 + rng.choice(count, p=sizes / sizes.sum())


def _no_crops(settings: CropSettings) -> RegionCrops:
    return RegionCrops(images=torch.empty(0, 3, settings.side, settings.side), labels=torch.empty(0, dtype=torch.int64))
