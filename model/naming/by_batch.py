"""Segments named a whole batch at a time: the way of GPUs, which launch little and wait twice.

The numbers of a batch stay on the device from the proposals to the finished maps. The host learns twice what the
device found: which masks have a cell, because CLIP must be given that many sub-images, and at the end the results.
Queries that the settings skip are not cut out, they get scores of 0, so that all images keep the same shape.

Legend for shapes: B images of one padded size, Q queries of each, P = B * Q, C classes, D embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from maskmill.model.clip.image_encoder import ImageEncoder
from maskmill.model.images.preprocess import normalised_batch
from maskmill.model.naming.batch_groups import Group, groups_of, segmentations
from maskmill.model.naming.batch_maps import BatchMaps
from maskmill.model.naming.batch_regions import BatchRegions, Filled, batch_regions
from maskmill.model.naming.by_image import LabelTable, covered_cells, output_pixels_a_cell, single_pass
from maskmill.model.naming.quality import margin, stability
from maskmill.model.naming.regions import SINGLE_PASS_REGIONS
from maskmill.model.naming.scoring import Scorer, SegmentScores
from maskmill.model.naming.semantic import Frame, SemanticSum
from maskmill.model.naming.settings import NamingSettings
from maskmill.model.networks.device_policy import DevicePolicy
from maskmill.model.networks.transfers import Transfers
from maskmill.model.proposals import Proposals, Segmentation


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortlist:
    """What is known of a group before CLIP. objectness: (P,). accepted: (P,) bool, None for all.

    query_scores: (P, C), None without a query branch. filled: (P,) bool, accepted queries whose mask has a cell.
    """

    objectness: Tensor
    accepted: Tensor | None
    query_scores: Tensor | None
    filled: Tensor


class ByBatch:
    """Names the segments of images, all images of a call at once; as ``ByImage`` but for the last digits."""

    def __init__(
        self,
        settings: NamingSettings,
        scorer: Scorer,
        encoder: ImageEncoder,
        labels: LabelTable,
        policy: DevicePolicy,
    ) -> None:
        self.settings, self.scorer, self.encoder, self.labels, self.policy = settings, scorer, encoder, labels, policy
        self.transfers = Transfers(encoder.device)
        self._values = torch.from_numpy(labels.labels.view(np.int16)).to(encoder.device)

    def __call__(
        self,
        images: Sequence[np.ndarray],
        proposals: Sequence[Proposals],
        sizes: Sequence[tuple[int, int]],
        *,
        keep_scores: bool,
        independent: bool,
    ) -> list[Segmentation]:
        """As ``Classifier.__call__``, which has checked the arguments; independent: padding alone is each image's."""
        groups = groups_of(images, proposals, sizes, self.transfers)
        shortlists = [self._shortlist(group) for group in groups]
        features, boxes = self._look_at(groups, shortlists)
        scores = [self._score(*own) for own in zip(groups, shortlists, features, strict=True)]
        results = [
            self._results(*own, keep_scores=keep_scores) for own in zip(groups, shortlists, scores, boxes, strict=True)
        ]
        arrays = iter(self.transfers.fetch([tensor for own in results for tensor in own.values()]))
        named: dict[int, Segmentation] = {}
        for group, own in zip(groups, results, strict=True):
            named.update(segmentations(group, {name: next(arrays) for name in own}))
        return [named[position] for position in range(len(images))]

    def _shortlist(self, group: Group) -> Shortlist:
        """Find out which queries are named, and which of them CLIP is shown."""
        proposals, settings = group.proposals, self.settings
        query_scores, objectness = self.scorer.query_scores(proposals), proposals.objectness
        if objectness is None:
            objectness = (
                torch.ones_like(proposals.mask_logits[:, 0, 0]) if query_scores is None else query_scores.sum(1)
            )
        objectness = objectness.clamp(0, 1)
        filled = proposals.mask_logits.amax(dim=(1, 2)) > 0
        if not (settings.least_objectness or settings.min_area or settings.min_visible):
            return Shortlist(objectness=objectness, accepted=None, query_scores=query_scores, filled=filled)
        masks, by_image = group.masks, objectness.view(len(group.at), -1)
        accepted = by_image >= settings.least_objectness
        pixels = np.array([[self._pixels_a_cell(group, frame)] for frame in group.frames], np.float32)
        pixels_a_cell = self.transfers.upload_array(pixels)
        if settings.min_area:
            accepted &= (masks > 0).sum(dim=(2, 3)) * pixels_a_cell >= settings.min_area
        if settings.min_visible:
            strongest = masks.flatten(2).max(dim=1)
            visible = torch.zeros_like(by_image).scatter_add_(1, strongest.indices, (strongest.values > 0).float())
            accepted &= visible * pixels_a_cell >= settings.min_visible
        # Keep at least the most confident query; the map needs one.
        best = torch.zeros_like(accepted).scatter_(1, by_image.argmax(dim=1, keepdim=True), True)
        accepted = torch.where(accepted.any(dim=1, keepdim=True), accepted, best).flatten()
        return Shortlist(objectness=objectness, accepted=accepted, query_scores=query_scores, filled=filled & accepted)

    @staticmethod
    def _pixels_a_cell(group: Group, frame: Frame) -> float:
        return output_pixels_a_cell(frame, group.proposals.mask_logits.shape[1:])

    def _look_at(
        self, groups: Sequence[Group], shortlists: Sequence[Shortlist]
    ) -> tuple[list[Tensor | None], list[Tensor]]:
        """Return CLIP's (P, D) features of each group's segments, None if not used, and their (P, 4) boxes."""
        found = self.transfers.fetch([own.filled for own in shortlists])
        filled = [np.flatnonzero(flags) for flags in found]
        regions = [self._regions(group, own) for group, own in zip(groups, filled, strict=True)]
        boxes = [own.boxes for own in regions]
        if self.scorer.image_text is None:
            return [None] * len(groups), boxes
        if self.settings.region in SINGLE_PASS_REGIONS:
            return [self._single_pass(group) for group in groups], boxes
        shown = [own.sub_images for own in regions if own.sub_images is not None]
        counts = [len(own) for own in shown]
        encoded = self.encoder.encode(shown[0] if len(shown) == 1 else torch.cat(shown)).split(counts)
        return [self._of_queries(*own) for own in zip(groups, filled, encoded, strict=True)], boxes

    def _regions(self, group: Group, filled: np.ndarray) -> BatchRegions:
        queries = len(group.proposals.mask_logits) // len(group.at)
        places = self.transfers.upload_array(np.stack((filled, filled // queries)))
        sub_images = self.scorer.image_text is not None and self.settings.region not in SINGLE_PASS_REGIONS
        return batch_regions(
            self._pixels(group) if sub_images else None,
            group.masks,
            Filled(queries=places[0], images=places[1]),
            group.proposals.padded_size,
            self.settings.region,
            self.encoder.image_size,
            self.policy,
        )

    def _pixels(self, group: Group) -> Tensor:
        """Return the (B, 3, H, W) padded images, normalised for CLIP; 0, the padding, is its mean colour."""
        mean, std = self.encoder.input.mean, self.encoder.input.std
        return normalised_batch(group.images, group.proposals.padded_size, self.transfers, mean, std)

    def _of_queries(self, group: Group, filled: np.ndarray, encoded: Tensor) -> Tensor:
        """Return (P, D) of the features of a group's sub-images: empty masks get those of what they show."""
        queries = len(group.proposals.mask_logits)
        if self.settings.region == "crop":
            # The whole images follow the sub-images of the boxes.
            index = len(filled) + np.arange(queries) // (queries // len(group.at))
        else:
            encoded = torch.cat((encoded, self.encoder.blank))
            index = np.full(queries, len(filled))
        index[filled] = np.arange(len(filled))
        return encoded.index_select(0, self.transfers.upload_array(index))

    def _single_pass(self, group: Group) -> Tensor:
        """Return CLIP's (P, D) features of all segments from one pass over each image, without its padding."""
        pixels, masks, features, start = self._pixels(group), group.masks, [], 0
        for image_size, members in groupby(frame.image_size for frame in group.frames):
            stop = start + len(list(members))
            cells, (rows, columns) = covered_cells(image_size, group.proposals.padded_size, masks.shape[2:])
            own = masks[start:stop, :, : cells[0], : cells[1]].sigmoid()
            features.append(
                single_pass(self.encoder, self.settings, pixels[start:stop, :, :rows, :columns], own).flatten(0, 1)
            )
            start = stop
        return features[0] if len(features) == 1 else torch.cat(features)

    def _score(self, group: Group, shortlist: Shortlist, image_features: Tensor | None) -> SegmentScores:
        scores = self.scorer.scores(group.proposals, shortlist.query_scores, image_features)
        if shortlist.accepted is None:
            return scores
        agree = scores.branches_agree
        return SegmentScores(
            fused=torch.where(shortlist.accepted[:, None], scores.fused, 0),
            branches_agree=None if agree is None else agree | ~shortlist.accepted,
        )

    def _results(
        self, group: Group, shortlist: Shortlist, scores: SegmentScores, boxes: Tensor, *, keep_scores: bool
    ) -> dict[str, Tensor]:
        """Return all that becomes of a group, on the device; names with a number are of the images of one frame."""
        accepted, count = shortlist.accepted, len(group.at)
        results = {
            "query_scores": scores.fused,
            "boxes": boxes if accepted is None else torch.where(accepted[:, None], boxes, 0),
            "objectness": shortlist.objectness,
            "stability": stability(group.proposals.mask_logits),
            "margin": margin(scores.fused),
        }
        if scores.branches_agree is not None:
            results["agreement"] = scores.branches_agree
        fused, masks = scores.fused.view(count, -1, scores.fused.shape[1]), group.masks
        takes_part = None if accepted is None else accepted.view(count, -1)
        start = 0
        for frame, members in groupby(group.frames):
            stop = start + len(list(members))
            maps = BatchMaps(
                scores=fused[start:stop],
                mask_logits=masks[start:stop],
                frame=frame,
                offsets=self.labels.offsets,
                resize_masks_first=self.settings.resize_masks_first,
                policy=self.policy,
                transfers=self.transfers,
            )
            own = None if takes_part is None else takes_part[start:stop]
            for name, tensor in self._maps(maps, own, keep_scores=keep_scores).items():
                results[f"{name} {start}"] = tensor
            start = stop
        return results

    def _maps(self, maps: BatchMaps, takes_part: Tensor | None, *, keep_scores: bool) -> dict[str, Tensor]:
        """Return the maps of the images of one frame: label_map (B, H, W) int16, class_queries (B, C), and others."""
        parts: dict[str, list[Tensor]] = {"label_map": [], "class_queries": []}
        start = 0
        for chunk in maps.chunks():
            own = None if takes_part is None else takes_part[start : start + len(chunk.scores)]
            class_maps = None
            if keep_scores:
                class_maps = torch.stack([self._class_map(chunk, at) for at in range(len(chunk.scores))])
                parts.setdefault("semantic_scores", []).append(class_maps)
            classes, labels = self._label_maps(chunk, class_maps)
            parts["label_map"].append(labels)
            queries = chunk.class_queries(classes, own)
            parts["class_queries"].append(torch.where(self.labels.is_distractor, -1, queries))
            if self.settings.query_segments:
                parts.setdefault("query_map", []).append(chunk.query_map(own, self.labels.is_distractor))
            start += len(chunk.scores)
        return {name: own[0] if len(own) == 1 else torch.cat(own) for name, own in parts.items()}

    def _label_maps(self, maps: BatchMaps, class_maps: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return (B, H, W) class ids int64 and values of the label map int16. class_maps: (B, C, H, W), if at hand."""
        classes = maps.classes() if class_maps is None else class_maps.argmax(dim=1)
        return classes, self._values.take(classes)

    def _class_map(self, maps: BatchMaps, at: int) -> Tensor:
        return SemanticSum(
            scores=maps.scores[at],
            mask_logits=maps.mask_logits[at],
            frame=maps.frame,
            offsets=maps.offsets,
            resize_masks_first=maps.resize_masks_first,
            policy=self.policy,
        ).class_map()
