"""From embeddings to class scores: softmax of either branch, and their fusion (paper sections 3.2 to 3.4).

Legend for shapes: Q queries, C classes, D embedding size.
"""

from __future__ import annotations

from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.model.naming.settings import FUSIONS_WITHOUT_QUERIES, Fusion
from maskmill.model.zegformer.network import TEMPERATURE

FUSIONS: tuple[str, ...] = get_args(Fusion)

ENSEMBLE_WEIGHT = 2 / 3
"""Lambda of the paper's ensemble: the exponent of the trusted branch."""


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
) -> Tensor:
    """Return (Q, C) probabilities of the image branch.

    image_features: (Q, D) as CLIP gives them. no_object_logits: (Q,) of the query branch, which this softmax borrows
    as the release does; None for proposals without a query branch. text: (C, D) L2-normalised; or (N, D) with
    ``class_of_text`` (N,) int64, which gives each class the highest logit of its texts.
    """
    logits = logit_scale * F.normalize(image_features, dim=-1) @ text.T
    if class_of_text is not None:
        lowest = logits.new_full((len(logits), int(class_of_text.max()) + 1), float("-inf"))
        logits = lowest.scatter_reduce(1, class_of_text.expand(len(logits), -1), logits, "amax")
    if no_object_logits is None:
        return logits.softmax(dim=-1)
    return torch.cat((logits, no_object_logits[:, None]), dim=-1).softmax(dim=-1)[:, :-1]


def fuse(query_scores: Tensor | None, clip_scores: Tensor | None, seen: Tensor, fusion: str) -> Tensor:
    """Return (Q, C) class scores from the (Q, C) probabilities of both branches (paper equation 4).

    seen: (C,) bool. The branch that ``fusion`` leaves out may be None; "vocabulary" gives CLIP's, which
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
    if fusion == "ensembling-all" or not seen.any():
        return trusting_clip
    # One CLIP factor for all seen classes: CLIP decides between seen and unseen, never among the seen.
    clip_share_of_seen = clip_scores[:, seen].mean(dim=1, keepdim=True)
    trusting_query = query_scores**ENSEMBLE_WEIGHT * clip_share_of_seen ** (1 - ENSEMBLE_WEIGHT)
    return torch.where(seen, trusting_query, trusting_clip)


def calibration_offsets(seen: Tensor, calibration: float) -> Tensor:
    """Return (C,) float32 amounts to subtract from the semantic scores: ``calibration`` for seen classes, else 0."""
    return seen.float() * calibration


def class_logits(query_embeddings: Tensor, no_object_logits: Tensor, text: Tensor) -> Tensor:
    """Return logits over classes plus "no object" as last column, (..., Q, C + 1) (paper equation 2).

    query_embeddings: (..., Q, D); no_object_logits: (..., Q); text: (C, D) L2-normalised.
    """
    return torch.cat((query_embeddings @ text.T / TEMPERATURE, no_object_logits[..., None]), dim=-1)
