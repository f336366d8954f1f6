"""From embeddings to class scores: softmax of either branch, and their fusion (paper sections 3.2 to 3.4).

Legend for shapes: Q queries, C classes, D embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.model.naming.quality import agreement
from maskmill.model.naming.settings import FUSIONS_WITHOUT_QUERIES, Fusion
from maskmill.model.naming.source_names import fuse_with_source
from maskmill.model.proposals import Proposals
from maskmill.model.zegformer.network import TEMPERATURE

FUSIONS: tuple[str, ...] = get_args(Fusion)

ENSEMBLE_WEIGHT = 2 / 3
"""Lambda of the paper's ensemble: the exponent of the trusted branch."""


def class_logits(query_embeddings: Tensor, no_object_logits: Tensor, text: Tensor) -> Tensor:
    """Return logits over classes plus "no object" as last column, (..., Q, C + 1) (paper equation 2).

    query_embeddings: (..., Q, D); no_object_logits: (..., Q); text: (C, D) L2-normalised.
    """
    return torch.cat((query_embeddings @ text.T / TEMPERATURE, no_object_logits[..., None]), dim=-1)


def query_probabilities(query_embeddings: Tensor, no_object_logits: Tensor, text: Tensor) -> Tensor:
    """Return (Q, C) probabilities of the query branch; the share missing to 1 is "no object" (paper equation 2).

    query_embeddings: (Q, D) L2-normalised. no_object_logits: (Q,). text: (C, D) L2-normalised.
    """
    return class_logits(query_embeddings, no_object_logits, text).softmax(dim=-1)[:, :-1]


def clip_probabilities(
    image_features: Tensor,
    no_object_logits: Tensor | None,
    text: Tensor,
    logit_scale: float,
    class_of_text: Tensor | None = None,
    classes: int | None = None,
) -> Tensor:
    """Return (Q, C) probabilities of the image branch.

    image_features: (Q, D) as CLIP gives them. no_object_logits: (Q,) of the query branch, which this softmax borrows
    as the release does; None for proposals without a query branch. text: (C, D) L2-normalised; or (N, D) with
    ``class_of_text`` (N,) int64, which gives each class the highest logit of its texts. classes: C; needed only with
    ``class_of_text``, where None reads it from the texts, which on a GPU is a wait.
    """
    logits = logit_scale * F.normalize(image_features, dim=-1) @ text.T
    if class_of_text is not None:
        classes = int(class_of_text.max()) + 1 if classes is None else classes
        lowest = logits.new_full((len(logits), classes), float("-inf"))
        logits = lowest.scatter_reduce(1, class_of_text.expand(len(logits), -1), logits, "amax")
    if no_object_logits is None:
        return logits.softmax(dim=-1)
    return torch.cat((logits, no_object_logits[:, None]), dim=-1).softmax(dim=-1)[:, :-1]


def fuse(
    query_scores: Tensor | None,
    clip_scores: Tensor | None,
    seen: Tensor,
    fusion: str,
    seen_ids: Tensor | None = None,
) -> Tensor:
    """Return (Q, C) class scores from the (Q, C) probabilities of both branches (paper equation 4).

    seen: (C,) bool. seen_ids: (S,) int64, the classes that are seen; None finds them in ``seen``, which on a GPU is a
    wait. The branch that ``fusion`` leaves out may be None; "vocabulary" gives CLIP's, which
    ``fuse_with_source`` takes further. ValueError for an unknown fusion or a missing branch.
    """
    if fusion not in FUSIONS:
        raise ValueError(f"Unknown fusion {fusion!r}. Choose from: {', '.join(FUSIONS)}")
    if query_scores is None and fusion not in FUSIONS_WITHOUT_QUERIES:
        raise ValueError(f"Fusion {fusion!r} needs proposals with query embeddings; without them choose 'clip'")
    if clip_scores is None and fusion != "query":
        raise ValueError(f"Fusion {fusion!r} needs the image branch; without it choose 'query'")
    if query_scores is None or fusion in FUSIONS_WITHOUT_QUERIES:
        assert clip_scores is not None
        return clip_scores
    if clip_scores is None or fusion == "query":
        return query_scores
    trusting_clip = query_scores ** (1 - ENSEMBLE_WEIGHT) * clip_scores**ENSEMBLE_WEIGHT
    seen_ids = seen.nonzero()[:, 0] if seen_ids is None else seen_ids
    if fusion == "ensembling-all" or not len(seen_ids):
        return trusting_clip
    # One CLIP factor for all seen classes: CLIP decides between seen and unseen, never among the seen.
    clip_share_of_seen = clip_scores[:, seen_ids].mean(dim=1, keepdim=True)
    trusting_query = query_scores**ENSEMBLE_WEIGHT * clip_share_of_seen ** (1 - ENSEMBLE_WEIGHT)
    return torch.where(seen, trusting_query, trusting_clip)


def calibration_offsets(seen: Tensor, calibration: float) -> Tensor:
    """Return (C,) float32 amounts to subtract from the semantic scores: ``calibration`` for seen classes, else 0."""
    return seen.float() * calibration


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentScores:
    """Class scores of segments. fused: (Q, C), input of the semantic sum. branches_agree: (Q,) bool, or None."""

    fused: Tensor
    branches_agree: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """All that class scores depend on beside the segments, on the device.

    query_text: (C, D). image_text: (C, D), or (N, D) of the texts whose classes are ``class_of_text`` (N,); None where
    CLIP sees no images. seen: (C,) bool. seen_ids: (S,) int64, the same. matching: (C, K) bool, or None
    (``maskmill.model.naming.source_names``).
    """

    fusion: str
    logit_scale: float
    query_text: Tensor
    image_text: Tensor | None
    class_of_text: Tensor | None
    seen: Tensor
    seen_ids: Tensor
    matching: Tensor | None

    def query_scores(self, proposals: Proposals) -> Tensor | None:
        """Return (Q, C) probabilities of the query branch, None for proposals without one."""
        if proposals.query_embeddings is None or proposals.no_object_logits is None:
            return None
        return query_probabilities(proposals.query_embeddings, proposals.no_object_logits, self.query_text)

    def scores(self, proposals: Proposals, query_scores: Tensor | None, image_features: Tensor | None) -> SegmentScores:
        """Return the scores of Q segments. image_features: (Q, D) as CLIP gives them, None where it did not run."""
        clip_scores = None
        if image_features is not None and self.image_text is not None:
            clip_scores = clip_probabilities(
                image_features,
                proposals.no_object_logits,
                self.image_text,
                self.logit_scale,
                self.class_of_text,
                len(self.seen),
            )
        fused = fuse(query_scores, clip_scores, self.seen, self.fusion, self.seen_ids)
        if self.matching is not None and proposals.class_probabilities is not None:
            fused = fuse_with_source(proposals.class_probabilities, fused, self.matching)
        if proposals.objectness is not None:
            fused = fused * proposals.objectness[:, None]
        return SegmentScores(fused=fused, branches_agree=agreement(query_scores, clip_scores))
