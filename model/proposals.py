"""The two things that flow through the system: proposals of one image, and its finished segmentation.

Legend for shapes: Q queries (segments), C classes, D embedding size, H x W pixels, h x w mask cells (stride 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

UNLABELLED = np.uint16(65535)
"""Value of a label map where no class was assigned (and the ignore value of 16-bit ground truth)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposals:
    """Class-agnostic segments of one image, before any class name is known (paper section 3.1).

    mask_logits: (Q, h, w) float, at any stride of the padded input (4 for most sources).
    query_embeddings: (Q, D) float, L2-normalised, comparable with text embeddings; None for sources without them.
    no_object_logits: (Q,) float, the extra "no object" logit of the query branch; None where the source has none.
    objectness: (Q,) float in 0..1, the source's own confidence; None where it follows from ``no_object_logits``.
    class_probabilities: (Q, K) float in 0..1 over the source's own K names, the share missing to 1 is "no object"; None
        where the source has no names of its own.
    image_size: (height, width) of the image the source was fed, without padding.
    padded_size: (height, width) with padding; ``mask_logits`` cover exactly this area.
    """

    mask_logits: Tensor
    query_embeddings: Tensor | None
    no_object_logits: Tensor | None
    objectness: Tensor | None = None
    class_probabilities: Tensor | None = None
    image_size: tuple[int, int]
    padded_size: tuple[int, int]

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Proposals:
        """Return the same proposals on ``device`` with floating tensors of ``dtype``."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device=device, dtype=dtype)

        return Proposals(
            mask_logits=self.mask_logits.to(device=device, dtype=dtype),
            query_embeddings=move(self.query_embeddings),
            no_object_logits=move(self.no_object_logits),
            objectness=move(self.objectness),
            class_probabilities=move(self.class_probabilities),
            image_size=self.image_size,
            padded_size=self.padded_size,
        )

    def select(self, queries: Tensor) -> Proposals:
        """Return only the proposals at the positions ``queries`` (K,) int64."""

        def own(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[queries]

        return Proposals(
            mask_logits=self.mask_logits[queries],
            query_embeddings=own(self.query_embeddings),
            no_object_logits=own(self.no_object_logits),
            objectness=own(self.objectness),
            class_probabilities=own(self.class_probabilities),
            image_size=self.image_size,
            padded_size=self.padded_size,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmentation:
    """What the system says of one image. All arrays are numpy, on the host.

    label_map: (H, W) uint16 class ids in the requested output size; ``UNLABELLED`` where no class applies.
    query_scores: (Q, C) float32 class scores after fusion (input of the semantic sum, before calibration).
    boxes: (Q, 4) float32 XYXY of each binary mask in padded input pixels (inclusive last index, as released).
    class_queries: (C,) int32, for each class with pixels the query that gives most to its region; -1 elsewhere.
    objectness: (Q,) float32, 1 - p(no object) or the source's own confidence.
    stability: (Q,) float32, |logit > 1| / |logit > -1| of each mask; 0 for an empty one.
    agreement: (Q,) bool, whether query branch and image branch have the same best class (True where only one ran).
    margin: (Q,) float32, best minus second-best class score (the best itself where there is one class).
    semantic_scores: (C, H, W) float32 calibrated scores, only on request.
    query_map: (H, W) uint16 index of the accepted query each pixel belongs to, only on request.

    Queries that were skipped (``NamingSettings``) have scores, box and margin 0 and agree.
    """

    label_map: np.ndarray
    query_scores: np.ndarray
    boxes: np.ndarray
    class_queries: np.ndarray
    objectness: np.ndarray
    stability: np.ndarray
    agreement: np.ndarray
    margin: np.ndarray
    semantic_scores: np.ndarray | None = None
    query_map: np.ndarray | None = None
