"""The models that are measured: one of the real size with random weights, and the bundled one with its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import open_clip
import torch
from torch import Tensor, nn

from maskmill.model.clip.clip import Clip
from maskmill.model.clip.loading import load_clip, new_clip
from maskmill.model.naming.settings import NamingSettings
from maskmill.model.presets import BUNDLED, PRESETS
from maskmill.model.vocabulary import ClassEntry, Vocabulary
from maskmill.model.zegformer.checkpoint import load_zegformer
from maskmill.model.zegformer.config import ZegFormerConfig
from maskmill.model.zegformer.network import ZegFormer, ZegFormerOutput
from maskmill.pipeline.shapes import CLASSES, draw

SubjectName = Literal["real", "bundled"]

REAL_SIDE = 640
REAL_CLASSES = 171
REAL_CLIP = "ViT-B-16-quickgelu"
NON_EMPTY = 30
"""How many of the real size's 100 queries propose a mask: trained models leave about so many masks non-empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model to measure and the images it is measured on; ``settings`` are its defaults for naming.

    network, clip: each call loads the weights again, so that a measurement holds no more weights than an actor would.
    """

    network: Callable[[], ZegFormer]
    clip: Callable[[], Clip]
    vocabulary: Vocabulary
    settings: NamingSettings
    short_side: int
    max_long_side: int
    images: Sequence[np.ndarray]


def load_subject(name: SubjectName, images: int, seed: int) -> Subject:
    """Return the model called ``name`` with ``images`` images drawn for it; the same seed gives the same images."""
    return _real(images, seed) if name == "real" else _bundled(images, seed)


def _real(count: int, seed: int) -> Subject:
    """R-50, ViT-B/16, 171 classes and 100 queries, with random weights; the images are noise of 640 x 640 pixels."""

    def network() -> ZegFormer:
        torch.manual_seed(seed)
        random = ZegFormer(ZegFormerConfig()).eval().requires_grad_(False)
        leave_non_empty(random, NON_EMPTY)
        return random

    def clip() -> Clip:
        torch.manual_seed(seed)
        random = new_clip(open_clip.get_model_config(REAL_CLIP))
        random.model.eval().requires_grad_(False)
        return random

    generator = np.random.default_rng(seed)
    images = [generator.integers(0, 256, (REAL_SIDE, REAL_SIDE, 3), dtype=np.uint8) for _ in range(count)]
    # One prompt per class is enough: the time of an image is measured, and encoding 7,000 sentences is no part of it.
    entries = [ClassEntry(name=f"thing {number}", prompts=("a photo of a {}.",)) for number in range(REAL_CLASSES)]
    return Subject(
        network=network,
        clip=clip,
        vocabulary=Vocabulary(entries, seen=[number % 10 > 0 for number in range(REAL_CLASSES)]),
        settings=NamingSettings(),
        short_side=REAL_SIDE,
        max_long_side=PRESETS["zegformer-r50-coco"].max_long_side,
        images=images,
    )


def _bundled(count: int, seed: int) -> Subject:
    preset = PRESETS["bundled"]
    return Subject(
        network=partial(load_zegformer, BUNDLED),
        clip=partial(load_clip, BUNDLED),
        vocabulary=Vocabulary([entry.name for entry in CLASSES], seen=[entry.seen for entry in CLASSES]),
        settings=preset.naming,
        short_side=preset.short_side,
        max_long_side=preset.max_long_side,
        images=[draw(seed=seed, index=index)[0] for index in range(count)],
    )


def leave_non_empty(network: ZegFormer, count: int) -> None:
    """Make all but the first ``count`` queries of ``network`` propose an empty mask, in any precision."""

    def empty_others(module: nn.Module, inputs: tuple[Tensor, ...], output: ZegFormerOutput) -> None:
        for layer in output.layers:
            layer.mask_logits[:, count:] = -1

    network.register_forward_hook(empty_others)
