"""(image, proposals) -> named segments: the half of the system that needs no segmentation weights (paper section 3.2).

Legend for shapes: Q queries, C classes, D embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.model.clip.image_encoder import ImageEncoder
from maskmill.model.clip.loading import Clip
from maskmill.model.clip.prompts import IMAGE_PROMPT_SETS, prompt_set
from maskmill.model.clip.text import names_apart, text_features
from maskmill.model.images.preprocess import normalise
from maskmill.model.naming.instances import query_map
from maskmill.model.naming.quality import agreement, class_queries, margin, stability, visible_cells
from maskmill.model.naming.regions import SINGLE_PASS_REGIONS, region_boxes, region_images
from maskmill.model.naming.scoring import calibration_offsets, clip_probabilities, fuse, query_probabilities
from maskmill.model.naming.semantic import Frame, SemanticSum
from maskmill.model.naming.settings import NamingSettings
from maskmill.model.naming.source_names import fuse_with_source, matches
from maskmill.model.proposals import UNLABELLED, Proposals, Segmentation
from maskmill.model.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Proposals of one image and what is known before CLIP; the last three hold only the K queries not skipped.

    whole: all Q proposals. objectness: (Q,). kept: (K,) int64, their positions. query_scores: (K, C), or None.
    """

    whole: Proposals
    objectness: Tensor
    kept: Tensor
    proposals: Proposals
    query_scores: Tensor | None


@dataclass(frozen=True, slots=True)
class _Scores:
    """Of the K queries not skipped. fused: (K, C), input of the semantic sum. branches_agree: (K,) bool, or None."""

    fused: Tensor
    branches_agree: Tensor | None


class Classifier:
    """(image, proposals) -> named segments, for one vocabulary. Text embeddings are made when it is built.

    cache_dir: where text embeddings are kept between runs; None keeps none. compiled: as for ``ImageEncoder``.
    source_names: the names of the proposal source's class probabilities, for fusion "vocabulary"; without them that
        fusion is CLIP's alone.
    query_text, image_text: (C, D) embeddings for either branch, the second None where CLIP sees no images, and of N
        names instead of C classes where synonyms keep an embedding of their own.
    device, embed_dim, logit_scale: CLIP's; of CLIP itself only the image tower is kept, in ``encoder``.
    seen, offsets: (C,) bool, and float32 what is subtracted from each class.
    Raises ValueError for more classes than a 16-bit label map can hold, and for a region this CLIP cannot do.
    """

    def __init__(
        self,
        clip: Clip,
        vocabulary: Vocabulary,
        settings: NamingSettings | None = None,
        *,
        source_names: Sequence[str] | None = None,
        cache_dir: str | Path | None = None,
        compiled: bool = False,
    ) -> None:
        if len(vocabulary) > int(UNLABELLED):
            raise ValueError(f"{len(vocabulary)} classes; a 16-bit label map holds at most {UNLABELLED}")
        self.device, self.embed_dim, self.logit_scale = clip.device, clip.embed_dim, clip.logit_scale
        self.vocabulary = vocabulary
        self.settings = settings or NamingSettings()
        self.query_text = text_features(clip, vocabulary, prompt_set(self.settings.prompts), cache_dir)
        self._uses_images = self.settings.fusion != "query"
        sub_images = self._uses_images and self.settings.region not in SINGLE_PASS_REGIONS
        self.encoder = ImageEncoder(clip, compiled=compiled and sub_images)
        if self.settings.region in SINGLE_PASS_REGIONS:
            self.encoder.require_single_pass(self.settings.region)
            self.encoder.start_layer(self.settings.attend_layer)
        self._class_of_text: Tensor | None = None
        self.image_text = self._image_text(clip, cache_dir) if self._uses_images else None
        uses_names = self.settings.fusion == "vocabulary" and source_names is not None
        self._matching = matches(vocabulary, source_names or ()).to(clip.device) if uses_names else None
        self.seen = torch.tensor(vocabulary.seen_flags, device=clip.device)
        self.offsets = calibration_offsets(self.seen, self.settings.gamma)
        ids = np.arange(len(vocabulary), dtype=np.uint16)
        self._label_of_class = np.where(vocabulary.distractor_flags, UNLABELLED, ids)

    def _image_text(self, clip: Clip, cache_dir: str | Path | None) -> Tensor:
        """Return the image branch's (C, D) embeddings, or (N, D) of all names with ``_class_of_text`` set."""
        templates = IMAGE_PROMPT_SETS[self.settings.image_prompts]
        if self.settings.synonyms == "mean":
            return text_features(clip, self.vocabulary, templates, cache_dir)
        entries, class_ids = names_apart(self.vocabulary)
        self._class_of_text = torch.tensor(class_ids, device=clip.device)
        return text_features(clip, entries, templates, cache_dir)

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
        image's. keep_scores: also return the (C, H, W) class scores. independent: on a CPU no image's result
        depends on the others, to the last bit (``ImageEncoder.encode_apart``).
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
        candidates = [self._candidates(own, size) for own, size in zip(proposals, sizes, strict=True)]
        features, boxes = self._look_at(images, [own.proposals for own in candidates], independent)
        return [
            self._segmentation(own, self._score(own, own_features), own_boxes, size, keep_scores)
            for own, own_features, own_boxes, size in zip(candidates, features, boxes, sizes, strict=True)
        ]

    def _candidates(self, proposals: Proposals, size: tuple[int, int]) -> _Candidates:
        """Move proposals to CLIP's device and leave out the queries that the settings skip."""
        proposals = proposals.to(self.device)
        query_scores, objectness = None, proposals.objectness
        if proposals.query_embeddings is not None and proposals.no_object_logits is not None:
            query_scores = query_probabilities(proposals.query_embeddings, proposals.no_object_logits, self.query_text)
            objectness = query_scores.sum(dim=1) if objectness is None else objectness
        if objectness is None:
            objectness = torch.ones_like(proposals.mask_logits[:, 0, 0])
        objectness = objectness.clamp(0, 1)
        accepted = objectness >= self.settings.least_objectness
        pixels_a_cell = math.prod(size) / math.prod(proposals.image_size) * math.prod(proposals.padded_size)
        pixels_a_cell /= math.prod(proposals.mask_logits.shape[1:])
        if self.settings.min_area:
            accepted &= (proposals.mask_logits > 0).flatten(1).sum(dim=1) * pixels_a_cell >= self.settings.min_area
        if self.settings.min_visible:
            accepted &= visible_cells(proposals.mask_logits) * pixels_a_cell >= self.settings.min_visible
        if accepted.all():
            return _Candidates(proposals, objectness, accepted.nonzero()[:, 0], proposals, query_scores)
        # Never none at all: a map is made of something.
        kept = accepted.nonzero()[:, 0] if accepted.any() else objectness.argmax()[None]
        own_scores = None if query_scores is None else query_scores[kept]
        return _Candidates(proposals, objectness, kept, proposals.select(kept), own_scores)

    def _look_at(
        self, images: Sequence[np.ndarray], proposals: Sequence[Proposals], independent: bool
    ) -> tuple[list[Tensor | None], list[Tensor]]:
        """Return CLIP's (K, D) features of each image's segments, None if not used, and their (K, 4) boxes."""
        settings = self.settings
        if not self._uses_images or settings.region in SINGLE_PASS_REGIONS:
            boxes = [region_boxes(own.mask_logits, own.padded_size) for own in proposals]
            if not self._uses_images:
                return [None] * len(images), boxes
            return [self._single_pass(image, own) for image, own in zip(images, proposals, strict=True)], boxes
        counts, indices, boxes = [], [], []

        def sub_images() -> Iterator[Tensor]:
            for image, own in zip(images, proposals, strict=True):
                regions = region_images(
                    self._pixels(image, own), own.mask_logits, settings.region, self.encoder.image_size
                )
                shown, index = regions.without_blank()
                counts.append(len(shown))
                indices.append(index)
                boxes.append(regions.boxes)
                yield shown

        if independent:
            encoded = self.encoder.encode_apart(sub_images())
        else:
            encoded = self.encoder.encode(torch.cat(list(sub_images())))
        return [self._of_queries(*own) for own in zip(encoded.split(counts), indices, strict=True)], boxes

    def _of_queries(self, features: Tensor, index: Tensor) -> Tensor:
        """Return (K, D) of the (U, D) features of an image's sub-images; index: (K,), -1 for an empty mask."""
        if (index < 0).any():
            features = torch.cat((features, self.encoder.blank))  # at the end, where -1 finds it
        return features[index]

    def _single_pass(self, image: np.ndarray, proposals: Proposals) -> Tensor:
        """Return CLIP's (K, D) features of all segments from one pass over the image, without its padding."""
        (height, width), mask_logits = proposals.padded_size, proposals.mask_logits
        rows = math.ceil(proposals.image_size[0] / height * mask_logits.shape[1])
        columns = math.ceil(proposals.image_size[1] / width * mask_logits.shape[2])
        # Whole mask cells, so that pixels and masks cover the same area.
        last_row, last_column = rows * height // mask_logits.shape[1], columns * width // mask_logits.shape[2]
        pixels = self._pixels(image, proposals)[:, :last_row, :last_column]
        masks = mask_logits[:, :rows, :columns].sigmoid()
        short_side = self.settings.attend_side or 2 * self.encoder.image_size
        if self.settings.region == "pool":
            return self.encoder.pool(pixels, masks, short_side=short_side, binary=self.settings.pool_mask == "binary")
        return self.encoder.attend(pixels, masks, short_side=short_side, start_layer=self.settings.attend_layer)

    def _pixels(self, image: np.ndarray, proposals: Proposals) -> Tensor:
        """Return the (3, H, W) padded image, normalised for CLIP; 0, the padding, is its mean colour."""
        pixels = normalise(image, self.encoder.input.mean, self.encoder.input.std).to(self.device)
        height, width = proposals.padded_size
        return F.pad(pixels, (0, width - pixels.shape[2], 0, height - pixels.shape[1]))

    def _score(self, candidates: _Candidates, image_features: Tensor | None) -> _Scores:
        proposals, query_scores, clip_scores = candidates.proposals, candidates.query_scores, None
        if image_features is not None and self.image_text is not None:
            no_object = proposals.no_object_logits
            clip_scores = clip_probabilities(
                image_features, no_object, self.image_text, self.logit_scale, self._class_of_text
            )
        fused = fuse(query_scores, clip_scores, self.seen, self.settings.fusion)
        if self._matching is not None and proposals.class_probabilities is not None:
            fused = fuse_with_source(proposals.class_probabilities, fused, self._matching)
        if proposals.objectness is not None:
            fused = fused * proposals.objectness[:, None]
        return _Scores(fused, agreement(query_scores, clip_scores))

    def _segmentation(
        self, candidates: _Candidates, scores: _Scores, boxes: Tensor, size: tuple[int, int], keep_scores: bool
    ) -> Segmentation:
        proposals, kept = candidates.proposals, candidates.kept
        size = (int(size[0]), int(size[1]))
        frame = Frame(padded_size=proposals.padded_size, image_size=proposals.image_size, output_size=size)
        semantic = SemanticSum(
            scores=scores.fused,
            mask_logits=proposals.mask_logits,
            frame=frame,
            offsets=self.offsets,
            resize_masks_first=self.settings.resize_masks_first,
        )
        class_map = semantic.class_map() if keep_scores else None
        bands = semantic.label_bands() if class_map is None else [(0, class_map.argmax(dim=0))]
        label_map = np.empty(size, np.uint16)
        for start, labels in bands:
            label_map[start : start + len(labels)] = self._label_of_class[labels.cpu().numpy()]
        best = class_queries(label_map, scores.fused, proposals.mask_logits, frame)
        agree = scores.branches_agree

        def of_all(values: Tensor, skipped: float = 0) -> np.ndarray:
            """Return (Q, ...) of the (K, ...) values of the queries not skipped."""
            if len(kept) == len(candidates.objectness):
                return values.cpu().numpy()
            spread = values.new_full((len(candidates.objectness), *values.shape[1:]), skipped)
            return spread.index_copy_(0, kept, values).cpu().numpy()

        return Segmentation(
            label_map=label_map,
            query_scores=of_all(scores.fused),
            boxes=of_all(boxes),
            class_queries=np.where(best >= 0, kept.cpu().numpy()[best], -1).astype(np.int32),
            objectness=candidates.objectness.cpu().numpy(),
            stability=stability(candidates.whole.mask_logits).cpu().numpy(),
            agreement=of_all(torch.ones_like(boxes[:, 0], dtype=torch.bool) if agree is None else agree, skipped=True),
            margin=of_all(margin(scores.fused)),
            semantic_scores=None if class_map is None else class_map.cpu().numpy(),
            query_map=self._query_map(proposals, scores, kept, frame) if self.settings.query_segments else None,
        )

    def _query_map(self, proposals: Proposals, scores: _Scores, kept: Tensor, frame: Frame) -> np.ndarray:
        best = scores.fused.max(dim=1)
        is_distractor = torch.tensor(self.vocabulary.distractor_flags, device=self.device)[best.indices]
        owners = query_map(best.values, proposals.mask_logits, frame)
        names = torch.where(is_distractor, -1, kept).to(owners.dtype)
        names = torch.cat((names, names.new_full((1,), -1)))  # the name of index -1
        for row in owners:
            row[:] = names[row.long()]
        # As unsigned numbers, -1 is UNLABELLED.
        return owners.cpu().numpy().view(np.uint16)
