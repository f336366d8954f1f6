"""The segmentation methods that the study compares, each a function from an image to class scores of every pixel.

Legend for shapes: C classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from maskmill.model.clip.clip import Clip
from maskmill.model.clip.prompts import SINGLE
from maskmill.model.clip.text import text_features
from maskmill.model.images.preprocess import normalise, pad_to_multiple
from maskmill.model.images.resize import resize_short_side
from maskmill.model.naming.classifier import Classifier
from maskmill.model.naming.settings import Fusion, NamingSettings, Region
from maskmill.model.vocabulary import Vocabulary
from maskmill.model.zegformer.baseline import pixel_logits
from maskmill.model.zegformer.checkpoint import load_baseline, load_zegformer
from maskmill.model.zegformer.proposer import Proposer

Scores = Callable[[np.ndarray], np.ndarray]
"""A function from an image (H, W, 3) uint8 to (C, H, W) float32 scores, before calibration."""

CALIBRATIONS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
"""The amounts of calibration that are tried on the validation images."""


def decoupled(
    grouping: Path, clip: Clip, vocabulary: Vocabulary, short_side: int, *, fusion: Fusion, region: Region
) -> Scores:
    """Return ZegFormer with one fusion of its branches and one way of showing regions to CLIP."""
    propose = Proposer(load_zegformer(grouping), short_side=short_side)
    classify = Classifier(clip, vocabulary, NamingSettings(region=region, fusion=fusion, calibration=0.0))

    def scores(image: np.ndarray) -> np.ndarray:
        resized = propose.input_size.resize(image)
        proposals = propose([resized], independent=True)
        named = classify([resized], proposals, [(image.shape[0], image.shape[1])], keep_scores=True, independent=True)
        assert named[0].semantic_scores is not None
        return named[0].semantic_scores

    return scores


def per_pixel(baseline: Path, clip: Clip, vocabulary: Vocabulary, short_side: int) -> Scores:
    """Return the per-pixel baseline; its scores are probabilities over all classes."""
    network = load_baseline(baseline).requires_grad_(False)
    text = text_features(clip, vocabulary, SINGLE)

    @torch.inference_mode()
    def scores(image: np.ndarray) -> np.ndarray:
        resized = resize_short_side(image, short_side)
        batch = pad_to_multiple([normalise(resized)])
        logits = pixel_logits(network(batch), text, (batch.shape[2], batch.shape[3]))
        probabilities = logits.softmax(dim=1)[..., : resized.shape[0], : resized.shape[1]]
        size = (image.shape[0], image.shape[1])
        return torch.nn.functional.interpolate(probabilities, size=size, mode="bilinear")[0].numpy()

    return scores


def label_map(scores: np.ndarray, seen: np.ndarray, calibration: float) -> np.ndarray:
    """Return the (H, W) class of highest score, with ``calibration`` subtracted from seen classes. seen: (C,) bool."""
    return (scores - calibration * seen[:, None, None]).argmax(axis=0)
