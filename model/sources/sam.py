"""Segments from SAM and SAM 2.1: whatever a regular grid of points over the whole picture gives, without repeats.

The generator is this project's: the library's keeps no logits, needs gigabytes for a large photograph, and in its
version 5.23 never reaches the lower part of pictures that are wider than high.

Legend for shapes: P points, M = 3 masks a point, Q masks kept, S side of the network's square input, h x w mask cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import masks_to_boxes, nms

from maskmill.model.errors import CheckpointError
from maskmill.model.images.preprocess import PIXEL_MEAN, PIXEL_STD, normalise
from maskmill.model.images.resize import AS_IT_IS, InputSize, require_image, resize
from maskmill.model.naming.quality import stability
from maskmill.model.proposals import Proposals
from maskmill.model.sources.hugging_face import load_network, read_config
from maskmill.model.sources.source import SourceDescription

_CLASSES = {
    "sam": "SamModel",
    "sam2": "Sam2Model",
    # The folders of the released SAM 2.1 say sam2_video; the weights of its tracker are left out.
    "sam2_video": "Sam2Model",
}
MODEL_TYPES = tuple(_CLASSES)
"""Values of ``model_type`` in config.json that this module loads."""

OUTSIDE = -20.0
"""Mask logits where the network's square input holds padding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GridSettings:
    """Which masks are asked for and kept. The first five values are those of SAM's own generator.

    points_per_side: of the grid over the picture. least_iou, least_stability: masks below are dropped; the network's
    own estimate of its IoU, and |logit > 1| / |logit > -1|, 0..1. box_overlap: of two masks whose boxes have at least
    this IoU, the one with the lower estimate is dropped. points_at_once: decoded together; bounds memory.
    mask_overlap: likewise for the masks themselves. most_masks: kept at most, by estimated IoU.
    least_cells, most_share: smaller masks, in cells, and masks of more of the picture, 0..1, are dropped.
    """

    points_per_side: int = 32
    least_iou: float = 0.88
    least_stability: float = 0.95
    box_overlap: float = 0.7
    points_at_once: int = 64
    mask_overlap: float = 0.8
    most_masks: int = 200
    least_cells: int = 4
    most_share: float = 0.95


MASK_SIDE = 64
"""Masks are compared with each other at this resolution."""


@dataclass(frozen=True, slots=True)
class _Area:
    """The part of the network's input that holds the picture. rows, columns: of mask cells; width, height: pixels."""

    height: int
    width: int
    rows: int
    columns: int


class SamSource:
    """Images -> class-agnostic proposals with an objectness and nothing else.

    squash: the picture is stretched to the square input (SAM 2) instead of padded (SAM). input_size: what images are
    brought to before, so that CLIP looks at the same picture.
    """

    embedding_dim: int | None = None
    names: tuple[str, ...] | None = None

    def __init__(
        self, network: Any, *, squash: bool, settings: GridSettings | None = None, input_size: InputSize = AS_IT_IS
    ) -> None:
        self.input_size = input_size
        self.network = network.eval().requires_grad_(False)
        self.squash = squash
        self.settings = settings or GridSettings()
        weight = next(network.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.side = int(_side(network.config.prompt_encoder_config.image_size))

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray], *, independent: bool = True) -> list[Proposals]:
        """Propose segments of uint8 (H, W, 3) RGB images, each by itself whatever ``independent`` says."""
        return [self._propose(self.input_size.resize(image)) for image in images]

    def prepare(self, image: np.ndarray) -> Tensor:
        """Return the network's input, float32 (3, S, S)."""
        require_image(image)
        area = self._area(image.shape[0], image.shape[1], cells=self.side)
        if (area.height, area.width) != image.shape[:2]:
            image = resize(image, area.height, area.width)
        pixels = normalise(image, PIXEL_MEAN, PIXEL_STD)
        return F.pad(pixels, (0, self.side - area.width, 0, self.side - area.height))

    def points(self, height: int, width: int) -> Tensor:
        """Return the grid (P, 2) of points x, y in pixels of the network's input, over the picture and nothing else."""
        area = self._area(height, width, cells=self.side)
        steps = (torch.arange(self.settings.points_per_side) + 0.5) / self.settings.points_per_side
        rows, columns = torch.meshgrid(steps * area.height, steps * area.width, indexing="ij")
        return torch.stack((columns.flatten(), rows.flatten()), dim=1)

    def _area(self, height: int, width: int, cells: int) -> _Area:
        """``cells``: side of the square of mask cells over the network's input."""
        if self.squash:
            return _Area(self.side, self.side, cells, cells)
        scale = self.side / max(height, width)
        rows, columns = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        a_cell = self.side / cells
        return _Area(rows, columns, int(-(-rows // a_cell)), int(-(-columns // a_cell)))

    def _propose(self, image: np.ndarray) -> Proposals:
        height, width = image.shape[:2]
        pixels = self.prepare(image)[None].to(self.device, self.dtype)
        embedded = self.network.get_image_embeddings(pixels)
        points = self.points(height, width)
        point, choice, objectness = self._choose(embedded, points, (height, width))
        # The chosen points are decoded once more, so that memory holds the masks of one batch and those kept.
        parts = [
            masks[torch.arange(len(some)), choice[at : at + len(some)]]
            for at, some, masks, _ in self._decoded(embedded, points[point])
        ]
        masks = self._inside(torch.cat(parts), (height, width))
        kept = _different(masks, self.settings.mask_overlap)
        longest = max(height, width)
        return Proposals(
            mask_logits=masks[kept],
            query_embeddings=None,
            no_object_logits=None,
            objectness=objectness[kept],
            image_size=(height, width),
            padded_size=(height, width) if self.squash else (longest, longest),
        )

    def _choose(self, embedded: Any, points: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the masks worth keeping, best first: (Q,) point, (Q,) which of its masks, (Q,) objectness."""
        settings = self.settings
        scores, stable, areas, boxes, pictures = [], [], [], [], 1
        for _, _, masks, iou in self._decoded(embedded, points):
            inside = self._inside(masks.flatten(0, 1), size)
            area = self._area(*size, cells=inside.shape[-1])
            pictures = area.rows * area.columns
            covered = inside > 0
            scores.append(iou.flatten())
            stable.append(stability(inside))
            areas.append(covered.flatten(1).sum(dim=1))
            boxes.append(_boxes(covered))
        iou, stable_, cells = torch.cat(scores).clamp(0, 1), torch.cat(stable), torch.cat(areas)
        good = (iou >= settings.least_iou) & (stable_ >= settings.least_stability)
        good &= (cells >= settings.least_cells) & (cells <= settings.most_share * pictures)
        objectness = iou * stable_
        if not good.any():
            # Keep the most confident mask; a label map needs at least one.
            best = objectness.argmax()[None]
        else:
            candidates = good.nonzero()[:, 0]
            own = nms(torch.cat(boxes)[candidates], iou[candidates], settings.box_overlap)
            best = candidates[own[: settings.most_masks]]
        count = len(iou) // len(points)
        return (best // count).cpu(), (best % count).cpu(), objectness[best]

    def _decoded(self, embedded: Any, points: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield, for some points at a time: index of the first, points (P, 2), logits (P, M, h, w), IoUs (P, M)."""
        for at in range(0, len(points), self.settings.points_at_once):
            some = points[at : at + self.settings.points_at_once]
            output = self.network(
                image_embeddings=embedded,
                input_points=some[None, :, None].to(self.device, self.dtype),
                input_labels=torch.ones(1, len(some), 1, dtype=torch.int64, device=self.device),
                multimask_output=True,
            )
            yield at, some, output.pred_masks[0].float(), output.iou_scores[0].float()

    def _inside(self, masks: Tensor, size: tuple[int, int]) -> Tensor:
        """Return (Q, h, w) logits that are ``OUTSIDE`` where the network's input holds padding."""
        area = self._area(*size, cells=masks.shape[-1])
        if (area.rows, area.columns) == tuple(masks.shape[-2:]):
            return masks
        masks = masks.clone()
        masks[:, area.rows :] = OUTSIDE
        masks[:, :, area.columns :] = OUTSIDE
        return masks


def describe(folder: str | Path) -> SourceDescription:
    """Return what every SAM gives; ``folder`` is not read."""
    return SourceDescription(has_queries=False, names=None)


def load(
    folder: str | Path,
    *,
    input_size: InputSize = AS_IT_IS,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    settings: GridSettings | None = None,
) -> SamSource:
    """Load a checkpoint's folder of SAM or SAM 2.1: config.json and model.safetensors. Nothing is fetched.

    Raises as ``maskmill.model.sources.hugging_face.load``.
    """
    folder = Path(folder)
    model_type = read_config(folder).get("model_type")
    if model_type not in _CLASSES:
        raise CheckpointError(f"{folder}: model_type is {model_type!r}; supported: {', '.join(MODEL_TYPES)}")
    network = load_network(folder, _CLASSES[model_type])
    return SamSource(
        network.to(device=device, dtype=dtype), squash=model_type != "sam", settings=settings, input_size=input_size
    )


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]


def _boxes(covered: Tensor) -> Tensor:
    """Return (Q, 4) float32 XYXY boxes in cells of (Q, h, w) bool masks; zeros for empty masks."""
    boxes = torch.zeros(len(covered), 4, device=covered.device)
    some = covered.flatten(1).any(dim=1)
    if some.any():
        boxes[some] = masks_to_boxes(covered[some]) + torch.tensor([0.0, 0.0, 1.0, 1.0], device=covered.device)
    return boxes


def _different(masks: Tensor, overlap: float) -> Tensor:
    """Return the positions of the (Q, h, w) masks, best first, that no better one repeats (IoU >= ``overlap``)."""
    small = (F.interpolate(masks[:, None], (MASK_SIDE, MASK_SIDE), mode="bilinear", align_corners=False) > 0).flatten(1)
    flat = small.float()
    common = flat @ flat.T
    areas = flat.sum(dim=1)
    iou = common / (areas[:, None] + areas[None] - common).clamp(min=1)
    repeats = (iou >= overlap).cpu()
    kept: list[int] = []
    for position in range(len(masks)):
        if not repeats[position, kept].any():
            kept.append(position)
    return torch.tensor(kept, device=masks.device)
