"""Segments named image by image: the way of CPUs, in which no result depends on the other images of a call.

Legend for shapes: Q queries of an image, K of them that are kept, C classes, D embedding size.
Two numberings of queries meet here. Everything computed after the choice of queries is numbered 0..K-1; what leaves is
numbered 0..Q-1, as the proposals are. ``Shortlist`` is the only place that translates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.model.clip.image_encoder import ImageEncoder
from maskmill.model.images.preprocess import normalise
from maskmill.model.naming.instances import query_map
from maskmill.model.naming.quality import class_queries, margin, stability, visible_cells
from maskmill.model.naming.regions import SINGLE_PASS_REGIONS, region_boxes, region_images
from maskmill.model.naming.scoring import Scorer, SegmentScores
from maskmill.model.naming.semantic import Frame, SemanticSum
from maskmill.model.naming.settings import NamingSettings
from maskmill.model.networks.device_policy import DevicePolicy
from maskmill.model.proposals import Proposals, Segmentation


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTable:
    """From class ids to values of a label map.

    offsets: (C,) float32, subtracted from each class's map. labels: (C,) uint16, ``UNLABELLED`` for distractors.
    is_distractor: (C,) bool on the device.
    """

    offsets: Tensor
    labels: np.ndarray
    is_distractor: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortlist:
    """The queries of one image that are named, and what is known of them before CLIP.

    whole: all Q proposals. objectness: (Q,). kept: (K,) int64, the positions of those that are named.
    proposals: the kept ones. query_scores: (K, C) of the kept ones, or None without a query branch.
    """

    whole: Proposals
    objectness: Tensor
    kept: Tensor
    proposals: Proposals
    query_scores: Tensor | None

    def spread(self, values: Tensor, skipped: float = 0) -> np.ndarray:
        """Return (Q, ...) of (K, ...) values: those of the kept queries at their positions, ``skipped`` elsewhere."""
        queries = len(self.objectness)
        if len(self.kept) == queries:
            return values.cpu().numpy()
        everywhere = values.new_full((queries, *values.shape[1:]), skipped)
        return everywhere.index_copy_(0, self.kept, values).cpu().numpy()

    def positions(self, kept_queries: np.ndarray) -> np.ndarray:
        """Return int32 positions among all Q of queries numbered among the kept, -1 for -1."""
        return np.where(kept_queries >= 0, self.kept.cpu().numpy()[kept_queries], -1).astype(np.int32)


class ByImage:
    """Names the segments of images, one image at a time; only CLIP's batches may hold several images' sub-images."""

    def __init__(
        self,
        settings: NamingSettings,
        scorer: Scorer,
        encoder: ImageEncoder,
        labels: LabelTable,
        policy: DevicePolicy,
    ) -> None:
        self.settings, self.scorer, self.encoder, self.labels, self.policy = settings, scorer, encoder, labels, policy

    def __call__(
        self,
        images: Sequence[np.ndarray],
        proposals: Sequence[Proposals],
        sizes: Sequence[tuple[int, int]],
        *,
        keep_scores: bool,
        independent: bool,
    ) -> list[Segmentation]:
        """As ``Classifier.__call__``, which has checked the arguments."""
        frames = [
            Frame(padded_size=own.padded_size, image_size=own.image_size, output_size=(int(size[0]), int(size[1])))
            for own, size in zip(proposals, sizes, strict=True)
        ]
        shortlists = [self._shortlist(own, frame) for own, frame in zip(proposals, frames, strict=True)]
        features, boxes = self._look_at(images, [own.proposals for own in shortlists], independent)
        return [
            self._segmentation(own, self._score(own, own_features), own_boxes, frame, keep_scores)
            for own, own_features, own_boxes, frame in zip(shortlists, features, boxes, frames, strict=True)
        ]

    def _shortlist(self, proposals: Proposals, frame: Frame) -> Shortlist:
        """Leave out the queries that the settings skip."""
        proposals = proposals.to(self.encoder.device)
        query_scores, objectness = self.scorer.query_scores(proposals), proposals.objectness
        if objectness is None:
            objectness = (
                torch.ones_like(proposals.mask_logits[:, 0, 0]) if query_scores is None else query_scores.sum(1)
            )
        objectness = objectness.clamp(0, 1)
        accepted = objectness >= self.settings.least_objectness
        pixels_a_cell = output_pixels_a_cell(frame, proposals.mask_logits.shape[1:])
        if self.settings.min_area:
            accepted &= (proposals.mask_logits > 0).flatten(1).sum(dim=1) * pixels_a_cell >= self.settings.min_area
        if self.settings.min_visible:
            accepted &= visible_cells(proposals.mask_logits) * pixels_a_cell >= self.settings.min_visible
        if accepted.all():
            kept, own, own_scores = accepted.nonzero()[:, 0], proposals, query_scores
        else:
            # Keep at least the most confident query; the map needs one.
            kept = accepted.nonzero()[:, 0] if accepted.any() else objectness.argmax()[None]
            own, own_scores = proposals.select(kept), None if query_scores is None else query_scores[kept]
        return Shortlist(whole=proposals, objectness=objectness, kept=kept, proposals=own, query_scores=own_scores)

    def _look_at(
        self, images: Sequence[np.ndarray], proposals: Sequence[Proposals], independent: bool
    ) -> tuple[list[Tensor | None], list[Tensor]]:
        """Return CLIP's (K, D) features of each image's segments, None if not used, and their (K, 4) boxes."""
        region = self.settings.region
        if self.scorer.image_text is None or region in SINGLE_PASS_REGIONS:
            boxes = [region_boxes(own.mask_logits, own.padded_size, self.policy) for own in proposals]
            if self.scorer.image_text is None:
                return [None] * len(images), boxes
            return [self._single_pass(image, own) for image, own in zip(images, proposals, strict=True)], boxes
        counts, indices, boxes = [], [], []

        def sub_images() -> Iterator[Tensor]:
            for image, own in zip(images, proposals, strict=True):
                pixels = self._pixels(image, own)
                regions = region_images(pixels, own.mask_logits, region, self.encoder.image_size, self.policy)
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
            features = torch.cat((features, self.encoder.blank))  # Index -1 finds what stands at the end.
        return features[index]

    def _single_pass(self, image: np.ndarray, proposals: Proposals) -> Tensor:
        """Return CLIP's (K, D) features of all segments from one pass over the image, without its padding."""
        cells, (rows, columns) = covered_cells(
            proposals.image_size, proposals.padded_size, proposals.mask_logits.shape[1:]
        )
        pixels = self._pixels(image, proposals)[:, :rows, :columns]
        masks = proposals.mask_logits[:, : cells[0], : cells[1]].sigmoid()
        return single_pass(self.encoder, self.settings, pixels[None], masks[None])[0]

    def _pixels(self, image: np.ndarray, proposals: Proposals) -> Tensor:
        """Return the (3, H, W) padded image, normalised for CLIP; 0, the padding, is its mean colour."""
        pixels = normalise(image, self.encoder.input.mean, self.encoder.input.std).to(self.encoder.device)
        height, width = proposals.padded_size
        return F.pad(pixels, (0, width - pixels.shape[2], 0, height - pixels.shape[1]))

    def _score(self, shortlist: Shortlist, image_features: Tensor | None) -> SegmentScores:
        return self.scorer.scores(shortlist.proposals, shortlist.query_scores, image_features)

    def _segmentation(
        self, shortlist: Shortlist, scores: SegmentScores, boxes: Tensor, frame: Frame, keep_scores: bool
    ) -> Segmentation:
        """Paint the maps of one image and gather what its segments are worth."""
        proposals = shortlist.proposals
        label_map, class_map = self._label_map(proposals, scores.fused, frame, keep_scores)
        agree = scores.branches_agree
        agree = torch.ones_like(shortlist.kept, dtype=torch.bool) if agree is None else agree
        return Segmentation(
            label_map=label_map,
            query_scores=shortlist.spread(scores.fused),
            boxes=shortlist.spread(boxes),
            class_queries=shortlist.positions(class_queries(label_map, scores.fused, proposals.mask_logits, frame)),
            objectness=shortlist.objectness.cpu().numpy(),
            stability=stability(shortlist.whole.mask_logits).cpu().numpy(),
            agreement=shortlist.spread(agree, skipped=True),
            margin=shortlist.spread(margin(scores.fused)),
            semantic_scores=class_map,
            query_map=self._query_map(shortlist, scores.fused, frame) if self.settings.query_segments else None,
        )

    def _label_map(
        self, proposals: Proposals, fused: Tensor, frame: Frame, keep_scores: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the (H, W) uint16 labels, and the (C, H, W) class scores if they are asked for."""
        semantic = SemanticSum(
            scores=fused,
            mask_logits=proposals.mask_logits,
            frame=frame,
            offsets=self.labels.offsets,
            resize_masks_first=self.settings.resize_masks_first,
            policy=self.policy,
        )
        class_map = semantic.class_map() if keep_scores else None
        bands = semantic.label_bands() if class_map is None else [(0, class_map.argmax(dim=0))]
        label_map = np.empty(frame.output_size, np.uint16)
        for start, classes in bands:
            label_map[start : start + len(classes)] = self.labels.labels[classes.cpu().numpy()]
        return label_map, None if class_map is None else class_map.cpu().numpy()

    def _query_map(self, shortlist: Shortlist, fused: Tensor, frame: Frame) -> np.ndarray:
        """Return the (H, W) uint16 position of the query each pixel belongs to, ``UNLABELLED`` where none does."""
        best = fused.max(dim=1)
        owners = query_map(best.values, shortlist.proposals.mask_logits, frame, self.policy)
        names = torch.where(self.labels.is_distractor[best.indices], -1, shortlist.kept).to(owners.dtype)
        names = torch.cat((names, names.new_full((1,), -1)))  # Index -1 finds what stands at the end.
        for row in owners:
            row[:] = names[row.long()]
        # As unsigned numbers, -1 is UNLABELLED.
        return owners.cpu().numpy().view(np.uint16)


def output_pixels_a_cell(frame: Frame, cells: Sequence[int]) -> float:
    """Return how many pixels of the output one of the (h, w) mask cells covers."""
    pixels_a_cell = math.prod(frame.output_size) / math.prod(frame.image_size) * math.prod(frame.padded_size)
    return pixels_a_cell / math.prod(cells)


def covered_cells(
    image_size: tuple[int, int], padded_size: tuple[int, int], cells: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the (rows, columns) of the (h, w) mask cells that cover some image, and of the pixels that those cover.

    Whole cells, so that pixels and masks cover the same area.
    """
    covering = [
        math.ceil(image / padded * own) for image, padded, own in zip(image_size, padded_size, cells, strict=True)
    ]
    pixels = [count * padded // own for count, padded, own in zip(covering, padded_size, cells, strict=True)]
    return (covering[0], covering[1]), (pixels[0], pixels[1])


def single_pass(encoder: ImageEncoder, settings: NamingSettings, pixels: Tensor, masks: Tensor) -> Tensor:
    """Return CLIP's (B, Q, D) features of what lies under masks (B, Q, h, w) of images (B, 3, H, W) of one size."""
    short_side = settings.attend_side or 2 * encoder.image_size
    if settings.region == "pool":
        return encoder.pool_batch(pixels, masks, short_side=short_side, binary=settings.pool_mask == "binary")
    return encoder.attend_batch(pixels, masks, short_side=short_side, start_layer=settings.attend_layer)
