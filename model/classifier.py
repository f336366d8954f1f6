"""(image, proposals) -> named segments: the half of the system that needs no segmentation weights (paper section 3.2).

Legend for shapes: Q queries, C classes, D embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.clip import Clip
from model.instances import query_map
from model.preprocess import CLIP_MEAN, CLIP_STD, normalise
from model.prompts import IMAGE_BRANCH, PROMPT_SETS, prompt_set
from model.proposals import UNLABELLED, Proposals, Segmentation
from model.quality import agreement, class_queries, margin, stability
from model.regions import REGIONS, RegionImages, region_boxes, region_images
from model.scoring import FUSIONS, calibration_offsets, clip_probabilities, fuse, query_probabilities
from model.semantic import Frame, SemanticSum
from model.text import text_features
from model.vocabulary import Vocabulary

RELEASED_CALIBRATION = 0.1
"""Gamma of the released COCO-Stuff and VOC models, used with ``ensembling``."""

CLIP_BATCH = 32
"""Sub-images CLIP sees at a time; bounds memory."""


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError naming the choices unless ``value`` is one of them."""
    if value not in choices:
        raise ValueError(f"Unknown {name} {value!r}. Choose from: {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierSettings:
    """How proposals get their names; ValueError for an unknown choice.

    region: what CLIP sees of a segment: "crop", "mask" or "cropmask".
    fusion: "ensembling", "ensembling-all", "clip" or "query"; the last does not run CLIP on images.
    prompts: templates of the query branch: "single", "imagenet_select" or "imagenet".
    calibration: subtracted from the semantic scores of seen classes before the argmax. None: the released models' 0.1
        with "ensembling", 0 otherwise.
    resize_masks_first: bring masks to output size before the semantic sum, instead of the sum itself.
    query_segments: also make ``Segmentation.query_map``.
    min_objectness: queries below take no part in the query map; 0..1.
    """

    region: str = "cropmask"
    fusion: str = "ensembling"
    prompts: str = "single"
    calibration: float | None = None
    resize_masks_first: bool = False
    query_segments: bool = False
    min_objectness: float = 0.5

    def __post_init__(self) -> None:
        require_choice("region", self.region, REGIONS)
        require_choice("fusion", self.fusion, FUSIONS)
        require_choice("prompts", self.prompts, tuple(PROMPT_SETS))
        if self.calibration is not None and not math.isfinite(self.calibration):
            raise ValueError(f"calibration must be a finite number, got {self.calibration}")
        if not 0 <= self.min_objectness <= 1:
            raise ValueError(f"min_objectness must be in 0..1, got {self.min_objectness}")

    @property
    def gamma(self) -> float:
        """The calibration in force."""
        if self.calibration is not None:
            return self.calibration
        return RELEASED_CALIBRATION if self.fusion == "ensembling" else 0.0


@dataclass(frozen=True, slots=True)
class _Scores:
    """fused: (Q, C), input of the semantic sum. objectness: (Q,). branches_agree: (Q,) bool, None with one branch."""

    fused: Tensor
    objectness: Tensor
    branches_agree: Tensor | None


class Classifier:
    """(image, proposals) -> named segments, for one vocabulary. Text embeddings are made when it is built.

    cache_dir: where text embeddings are kept between runs; None keeps none.
    Raises ValueError for more classes than a 16-bit label map can hold.
    """

    def __init__(
        self,
        clip: Clip,
        vocabulary: Vocabulary,
        settings: ClassifierSettings | None = None,
        *,
        cache_dir: str | Path | None = None,
    ) -> None:
        if len(vocabulary) > int(UNLABELLED):
            raise ValueError(f"{len(vocabulary)} classes; a 16-bit label map holds at most {UNLABELLED}")
        self.clip = clip
        self.vocabulary = vocabulary
        self.settings = settings or ClassifierSettings()
        self._query_text = text_features(clip, vocabulary, prompt_set(self.settings.prompts), cache_dir)
        self._uses_images = self.settings.fusion != "query"
        self._image_text = text_features(clip, vocabulary, IMAGE_BRANCH, cache_dir) if self._uses_images else None
        self._seen = torch.tensor(vocabulary.seen_flags, device=clip.device)
        self._offsets = calibration_offsets(self._seen, self.settings.gamma)
        ids = np.arange(len(vocabulary), dtype=np.uint16)
        self._label_of_class = np.where(vocabulary.distractor_flags, UNLABELLED, ids)

    @torch.inference_mode()
    def __call__(
        self,
        images: Sequence[np.ndarray],
        proposals: Sequence[Proposals],
        sizes: Sequence[tuple[int, int]] | None = None,
        keep_scores: bool = False,
        *,
        independent: bool = False,
    ) -> list[Segmentation]:
        """Name the segments of each image.

        images: at the size the proposals were made from. sizes: (height, width) of each output, by default the
        image's. keep_scores: also return the (C, H, W) class scores. independent: encode each image's sub-images
        apart; by default CLIP's batches run across images, which may change the last digits.
        Raises ValueError where images, proposals and sizes do not fit together.
        """
        if sizes is None:
            sizes = [(image.shape[0], image.shape[1]) for image in images]
        if not len(images) == len(proposals) == len(sizes):
            raise ValueError(f"{len(images)} images, {len(proposals)} proposals and {len(sizes)} sizes")
        for image, own in zip(images, proposals, strict=True):
            if image.shape[:2] != tuple(own.image_size):
                raise ValueError(f"Proposals for an image of {own.image_size} came with one of {image.shape[:2]}")
        if not images:
            return []
        own_proposals = [own.to(self.clip.device) for own in proposals]
        everything = range(len(images))
        groups = [everything[i : i + 1] for i in everything] if independent else [everything]
        results: list[Segmentation] = []
        for group in groups:
            features, boxes = self._look_at([images[i] for i in group], [own_proposals[i] for i in group])
            for i, own_features, own_boxes in zip(group, features, boxes, strict=True):
                scores = self._score(own_proposals[i], own_features)
                results.append(self._segmentation(own_proposals[i], scores, own_boxes, sizes[i], keep_scores))
        return results

    def _look_at(
        self, images: Sequence[np.ndarray], proposals: Sequence[Proposals]
    ) -> tuple[list[Tensor | None], list[Tensor]]:
        """Return CLIP's (Q, D) features of each image's segments, None if not used, and their (Q, 4) boxes."""
        if not self._uses_images:
            return [None] * len(images), [region_boxes(own.mask_logits, own.padded_size) for own in proposals]
        regions = [self._regions(image, own) for image, own in zip(images, proposals, strict=True)]
        features: list[Tensor | None] = []
        for own, encoded in zip(regions, self._encode([own.images for own in regions]), strict=True):
            features.append(encoded[own.image_index])
        return features, [own.boxes for own in regions]

    def _regions(self, image: np.ndarray, proposals: Proposals) -> RegionImages:
        pixels = normalise(image, CLIP_MEAN, CLIP_STD).to(self.clip.device)
        height, width = proposals.padded_size
        padded = pixels.new_zeros(3, height, width)
        padded[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        return region_images(padded, proposals.mask_logits, self.settings.region, self.clip.image_size)

    def _encode(self, groups: list[Tensor]) -> tuple[Tensor, ...]:
        images = groups[0] if len(groups) == 1 else torch.cat(groups)
        features = torch.cat([self.clip.encode_image(batch) for batch in images.split(CLIP_BATCH)])
        return features.split([len(group) for group in groups])

    def _score(self, proposals: Proposals, image_features: Tensor | None) -> _Scores:
        query_scores = clip_scores = None
        no_object = proposals.no_object_logits
        objectness = proposals.objectness
        if proposals.query_embeddings is not None and no_object is not None:
            query_scores = query_probabilities(proposals.query_embeddings, no_object, self._query_text)
            objectness = query_scores.sum(dim=1) if objectness is None else objectness
        if image_features is not None and self._image_text is not None:
            clip_scores = clip_probabilities(image_features, no_object, self._image_text, self.clip.logit_scale)
        fused = fuse(query_scores, clip_scores, self._seen, self.settings.fusion)
        if proposals.objectness is not None:
            fused = fused * proposals.objectness[:, None]
        if objectness is None:
            objectness = torch.ones_like(fused[:, 0])
        return _Scores(fused, objectness.clamp(0, 1), agreement(query_scores, clip_scores))

    def _segmentation(
        self, proposals: Proposals, scores: _Scores, boxes: Tensor, size: tuple[int, int], keep_scores: bool
    ) -> Segmentation:
        size = (int(size[0]), int(size[1]))
        frame = Frame(padded_size=proposals.padded_size, image_size=proposals.image_size, output_size=size)
        semantic = SemanticSum(
            scores=scores.fused,
            mask_logits=proposals.mask_logits,
            frame=frame,
            offsets=self._offsets,
            resize_masks_first=self.settings.resize_masks_first,
        )
        class_map = semantic.class_map() if keep_scores else None
        bands = semantic.label_bands() if class_map is None else [(0, class_map.argmax(dim=0))]
        label_map = np.empty(size, np.uint16)
        for start, labels in bands:
            label_map[start : start + len(labels)] = self._label_of_class[labels.cpu().numpy()]
        agree = scores.branches_agree
        return Segmentation(
            label_map=label_map,
            query_scores=scores.fused.cpu().numpy(),
            boxes=boxes.cpu().numpy(),
            class_queries=class_queries(label_map, scores.fused, proposals.mask_logits, frame),
            objectness=scores.objectness.cpu().numpy(),
            stability=stability(proposals.mask_logits).cpu().numpy(),
            agreement=np.ones(len(boxes), bool) if agree is None else agree.cpu().numpy(),
            margin=margin(scores.fused).cpu().numpy(),
            semantic_scores=None if class_map is None else class_map.cpu().numpy(),
            query_map=self._query_map(proposals, scores, frame) if self.settings.query_segments else None,
        )

    def _query_map(self, proposals: Proposals, scores: _Scores, frame: Frame) -> np.ndarray:
        best = scores.fused.max(dim=1)
        accepted = scores.objectness >= self.settings.min_objectness
        is_distractor = torch.tensor(self.vocabulary.distractor_flags, device=self.clip.device)[best.indices]
        owners = query_map(best.values * accepted, proposals.mask_logits, frame)
        dropped = is_distractor.nonzero()[:, 0].to(owners.dtype)
        for row in owners if len(dropped) else ():
            row[torch.isin(row, dropped)] = -1
        # As unsigned numbers, -1 is UNLABELLED.
        return owners.cpu().numpy().view(np.uint16)
