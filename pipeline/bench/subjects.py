"""The models that are measured: the real size with random weights, and the bundled one with its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import open_clip
import torch
from torch import nn

from model.checkpoint import load_zegformer
from model.classifier_settings import ClassifierSettings
from model.clip import Clip, load_clip, new_clip
from model.config import ZegFormerConfig
from model.preprocess import normalise, pad_to_multiple
from model.presets import BUNDLED, PRESETS
from model.resize import resize_short_side
from model.vocabulary import ClassEntry, Vocabulary
from model.zegformer import ZegFormer
from pipeline.shapes import CLASSES, draw

SubjectName = Literal["real", "bundled"]

REAL_SIDE = 640
REAL_CLASSES = 171
REAL_CLIP = "ViT-B-16-quickgelu"
NON_EMPTY = 30
"""Of the 100 queries of the real size; trained models leave about so many masks non-empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model to measure with what it is shown; ``settings`` are its defaults for naming."""

    network: ZegFormer
    clip: Clip
    vocabulary: Vocabulary
    settings: ClassifierSettings
    short_side: int
    max_long_side: int
    images: Sequence[np.ndarray]


def load_subject(name: SubjectName, images: int, seed: int) -> Subject:
    """Build the model called ``name`` and ``images`` images for it, the same for the same seed."""
    return _real(images, seed) if name == "real" else _bundled(images, seed)


def _real(count: int, seed: int) -> Subject:
    """R-50, ViT-B/16, 171 classes, 100 queries, with random weights; noise of 640 x 640 pixels for images."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    images = [generator.integers(0, 256, (REAL_SIDE, REAL_SIDE, 3), dtype=np.uint8) for _ in range(count)]
    clip = new_clip(open_clip.get_model_config(REAL_CLIP))
    clip.model.eval().requires_grad_(False)
    network = ZegFormer(ZegFormerConfig()).eval().requires_grad_(False)
    leave_non_empty(network, images[0], NON_EMPTY)
    # One prompt a class: what is measured is an image, not 7,000 sentences.
    entries = [ClassEntry(name=f"thing {number}", prompts=("a photo of a {}.",)) for number in range(REAL_CLASSES)]
    return Subject(
        network=network,
        clip=clip,
        vocabulary=Vocabulary(entries, seen=[number % 10 > 0 for number in range(REAL_CLASSES)]),
        settings=ClassifierSettings(),
        short_side=REAL_SIDE,
        max_long_side=PRESETS["zegformer-r50-coco"].max_long_side,
        images=images,
    )


def _bundled(count: int, seed: int) -> Subject:
    preset = PRESETS["bundled"]
    return Subject(
        network=load_zegformer(BUNDLED),
        clip=load_clip(BUNDLED),
        vocabulary=Vocabulary([entry.name for entry in CLASSES], seen=[entry.seen for entry in CLASSES]),
        settings=ClassifierSettings(
            region=preset.region, fusion=preset.fusion, prompts=preset.prompts, calibration=preset.calibration
        ),
        short_side=preset.short_side,
        max_long_side=preset.max_long_side,
        images=[draw(seed=seed, index=index)[0] for index in range(count)],
    )


@torch.inference_mode()
def leave_non_empty(network: ZegFormer, image: np.ndarray, count: int) -> None:
    """Change the mask head so that only the first ``count`` queries have a mask with any pixel on ``image``.

    One channel of the mask features becomes constant, and the last layer of the mask embedding gets the row of weights
    that gives every other query a large negative value there. Masks of different images with the same network then
    differ, but so little in this channel that the share of empty ones stays.
    """
    batch = pad_to_multiple([normalise(resize_short_side(image, REAL_SIDE))])
    output = network(batch, every_layer=False)
    layers, features = list(network.mask_embedding), network.pixel_decoder.mask_features
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    assert features.bias is not None
    hidden = nn.Sequential(*layers[:-1])(output.queries[0]).double()
    features.weight[0] = 0
    features.bias[0] = 1
    wanted = torch.zeros(len(hidden), dtype=torch.float64)
    wanted[count:] = -4 * float(output.layers[-1].mask_logits.abs().max())
    with_bias = torch.cat((hidden, torch.ones_like(hidden[:, :1])), dim=1)
    row = torch.linalg.lstsq(with_bias, wanted[:, None]).solution[:, 0]
    last.weight[0] = row[:-1].float()
    last.bias[0] = float(row[-1])
