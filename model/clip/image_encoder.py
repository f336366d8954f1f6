"""CLIP's image tower made ready for inference: sub-images in batches, or all segments of an image in a single pass.

Legend for shapes: N images, Q masks, C channels, D embedding size, S side of CLIP's input, h x w mask cells.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.model.clip.loading import Clip
from maskmill.model.clip.vit import ClassTokenTower
from maskmill.model.networks.compiling import compile_network
from maskmill.model.networks.folding import fold_batch_norms
from maskmill.model.networks.micro_batch import MicroBatches

PIXELS_AT_ONCE = {"cpu": 4 * 224**2, "cuda": 128 * 224**2}
"""Pixels of the sub-images encoded together, by device. On CPUs a ViT-B/16 takes as long in batches of 4 as of 8 or 16
(measured), in less memory, and fewer sub-images are needed to fill the last one up (``encode_apart``)."""

SAME_SIZE = 32
"""Sub-images of different images encoded together on CPUs, if that many are within the pixels above. Measured with the
bundled CLIP on one core: 0.69 ms a sub-image, 0.90 in batches of 16, 1.24 in batches of 8."""

START_SHARE = 2 / 3
"""Single-pass classification starts after this share of the blocks: 8 of 12, the best in MAFT (arXiv 2310.00240)."""

RESNET_STRIDE = 32


class ImageEncoder:
    """Images or their segments -> CLIP embeddings, not of unit length. ``clip`` itself is left as it is.

    compiled: for batches of sub-images, see ``compile_network``.
    """

    def __init__(self, clip: Clip, *, compiled: bool = False) -> None:
        visual = clip.model.visual
        self.device, self.dtype = clip.device, clip.image_dtype
        self.image_size, self.embed_dim, self.input = clip.image_size, clip.embed_dim, clip.input
        self.visual = fold_batch_norms(copy.deepcopy(visual)) if isinstance(visual, ModifiedResNet) else visual
        self.micro_batches = MicroBatches(PIXELS_AT_ONCE.get(self.device.type, PIXELS_AT_ONCE["cpu"]))
        try:
            self.tower: ClassTokenTower | None = ClassTokenTower(visual)
        except ValueError:
            self.tower = None
        self._embed: Callable[[Tensor], Tensor] = self.visual if self.tower is None else self.tower.embed
        if compiled:
            example = torch.zeros(self._same_size, 3, self.image_size, self.image_size)
            self._embed = compile_network(self._embed, self._ready(example))

    @property
    def _same_size(self) -> int:
        """Sub-images of a batch of ``encode_apart`` on CPUs."""
        return max(1, min(SAME_SIZE, self.micro_batches.pixels // self.image_size**2))

    @cached_property
    def blank(self) -> Tensor:
        """The (1, D) float32 embedding of an all-zero sub-image, what every empty mask shows; made at first use."""
        # Of a batch as all others, so that it is what each of them would give.
        count = self._same_size if self.device.type == "cpu" else 1
        return self.encode(torch.zeros(count, 3, self.image_size, self.image_size))[:1]

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Embed images (N, 3, S, S) normalised with CLIP's statistics; (N, D) float32."""
        if not len(images):
            return torch.empty(0, self.embed_dim, device=self.device)
        parts = self.micro_batches(
            lambda start, stop: self._embed(self._ready(images[start:stop])), len(images), self.image_size**2
        )
        return torch.cat(parts).float()

    @torch.inference_mode()
    def encode_apart(self, parts: Iterable[Tensor]) -> Tensor:
        """Embed the sub-images of several images, taking them one image at a time; as ``encode`` of all parts.

        On CPUs no embedding depends on the other sub-images, to the last bit: kernels are chosen, and sums ordered, by
        the size of a batch, so all batches have one size, the last one filled up with zeros. On GPUs that would leave
        most of them idle.
        """
        if self.device.type != "cpu":
            return self.encode(torch.cat(list(parts)))
        size = self._same_size
        embedded, total = [self.encode(torch.empty(0))], 0
        waiting = torch.empty(0, 3, self.image_size, self.image_size)
        for part in parts:
            total += len(part)
            waiting = torch.cat((waiting, part))
            while len(waiting) >= size:
                embedded.append(self.encode(waiting[:size]))
                waiting = waiting[size:]
        if len(waiting):
            embedded.append(self.encode(F.pad(waiting, (0, 0) * 3 + (0, size - len(waiting)))))
        return torch.cat(embedded)[:total]

    def require_single_pass(self, region: str) -> None:
        """Raise ValueError unless this tower can do ``region``, "attend" or "pool"."""
        if region == "attend" and self.tower is None and not isinstance(self.visual, ModifiedResNet):
            raise ValueError(
                f"region 'attend' needs a CLIP that attends when it reads out (a ViT with a class token, or a ResNet "
                f"with attention pooling); {type(self.visual).__name__} does not: choose 'pool', or 'cropmask'"
            )
        if region == "pool" and not isinstance(self.visual, ModifiedResNet) and not _is_convolutional(self.visual):
            raise ValueError(
                f"region 'pool' needs a convolutional CLIP (ResNet, ConvNeXt), not {type(self.visual).__name__}; "
                "choose 'attend' for vision transformers"
            )

    def blocks(self) -> int:
        """How many blocks single-pass classification can start at: 1 for towers that attend only at their end."""
        return 1 if self.tower is None else len(self.tower.blocks)

    def start_layer(self, chosen: int | None) -> int:
        """Return the block at which the copies of the class token start; ValueError beyond the last one."""
        if chosen is None:
            return int(self.blocks() * START_SHARE)
        if not 0 <= chosen < self.blocks():
            raise ValueError(f"attend_layer must be 0 to {self.blocks() - 1} for this CLIP, got {chosen}")
        return chosen

    @torch.inference_mode()
    def attend(self, image: Tensor, masks: Tensor, *, short_side: int, start_layer: int | None = None) -> Tensor:
        """Embed what lies under each mask in one pass over the image; (Q, D) float32.

        image: (3, H, W), normalised for CLIP, without padding. masks: (Q, h, w) in 0..1, over the image. short_side:
        to which the image is resized for CLIP, in pixels, rounded to whole patches. start_layer: see ``start_layer``.
        A patch counts as covered where its largest mask value is at least 0.5.
        """
        self.require_single_pass("attend")
        patch = self.tower.patch_size if self.tower is not None else (RESNET_STRIDE, RESNET_STRIDE)
        resized, grid = _resized(image, short_side, patch, self.input.interpolation)
        covered = _covered(_at_least(masks, grid), grid)
        if self.tower is not None:
            start = self.start_layer(start_layer)
            return self.tower.attend(self._ready(resized), covered.flatten(1)[None], start)[0].float()
        return self._attention_pool(resized, covered, own_mean=False)

    @torch.inference_mode()
    def pool(self, image: Tensor, masks: Tensor, *, short_side: int, binary: bool = False) -> Tensor:
        """Average the tower's features under each mask, then apply CLIP's head; (Q, D) float32. As for ``attend``.

        binary: of a convolutional tower, cells count fully or not at all, from 0.5 on (FC-CLIP); by default as much as
            the mask covers of them. A mask without any cell of its own is taken as by default.
        """
        self.require_single_pass("pool")
        resized, grid = _resized(image, short_side, (RESNET_STRIDE, RESNET_STRIDE), self.input.interpolation)
        masks = _at_least(masks, grid)
        if isinstance(self.visual, ModifiedResNet):
            return self._attention_pool(resized, _covered(masks, grid), own_mean=True)
        trunk = self.visual.trunk
        features = trunk.forward_features(self._ready(resized))
        weights = F.adaptive_avg_pool2d(masks, features.shape[-2:]).flatten(1)
        if binary:
            cells = F.interpolate(masks[:, None], features.shape[-2:], mode="bilinear", align_corners=False).flatten(1)
            inside = (cells > 0.5).to(weights.dtype)
            weights = torch.where(inside.any(dim=1, keepdim=True), inside, weights)
        pooled = _shares(weights, features.dtype) @ features[0].flatten(1).T
        # One cell a mask: the trunk's own pooling has nothing left to average, its norms apply as trained.
        return self.visual.head(trunk.forward_head(pooled[:, :, None, None])).float()

    def _attention_pool(self, image: Tensor, covered: Tensor, *, own_mean: bool) -> Tensor:
        """Read a ResNet's features out for each mask: the pooling token looks at itself and at what its mask covers.

        The pooling token is the mean over the mask (``own_mean``; over the image for an empty one) or over the image.
        """
        visual: ModifiedResNet = self.visual
        features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(self._ready(image))))))
        head: AttentionPool2d = visual.attnpool
        height, width = features.shape[-2:]
        positions = _pool_positions(head.positional_embedding, (height, width)).to(features.dtype)
        cells = features[0].flatten(1).T
        seen = covered.flatten(1)
        empty = ~seen.any(dim=1, keepdim=True)
        sources = seen | empty if own_mean else torch.ones_like(seen)
        tokens_QC = _shares(sources, cells.dtype) @ cells + positions[0]
        cells = cells + positions[1:]

        def heads(projection: nn.Linear, tokens: Tensor) -> Tensor:
            return projection(tokens).unflatten(1, (head.num_heads, -1))

        queries = heads(head.q_proj, tokens_QC) * (cells.shape[1] // head.num_heads) ** -0.5
        to_itself = (queries * heads(head.k_proj, tokens_QC)).sum(dim=2, keepdim=True)
        to_cells = torch.einsum("qnc,lnc->qnl", queries, heads(head.k_proj, cells))
        to_cells = to_cells.masked_fill(~seen[:, None], float("-inf"))
        shares = torch.cat((to_itself, to_cells), dim=2).softmax(dim=2)
        read = torch.einsum("qnl,lnc->qnc", shares[:, :, 1:], heads(head.v_proj, cells))
        return head.c_proj((read + shares[:, :, :1] * heads(head.v_proj, tokens_QC)).flatten(1)).float()

    def _ready(self, images: Tensor) -> Tensor:
        return images.to(self.device, self.dtype, memory_format=torch.channels_last)


def _is_convolutional(visual: nn.Module) -> bool:
    """Whether the tower is a timm network that averages a feature map before its head."""
    return (
        isinstance(visual, TimmModel)
        and hasattr(visual.trunk, "forward_head")
        and getattr(getattr(visual.trunk, "head", None), "global_pool", None) is not None
    )


def _resized(
    image: Tensor, short_side: int, patch: tuple[int, int], interpolation: str
) -> tuple[Tensor, tuple[int, int]]:
    """Return the image as (1, 3, H, W) of whole patches, keeping its shape as nearly as they allow, and their grid."""
    scale = short_side / min(image.shape[-2:])
    rows, columns = (max(1, round(side * scale / size)) for side, size in zip(image.shape[-2:], patch, strict=True))
    size = (rows * patch[0], columns * patch[1])
    if size == tuple(image.shape[-2:]):
        return image[None], (rows, columns)
    resized = F.interpolate(image[None], size, mode=interpolation, align_corners=False, antialias=True)
    return resized, (rows, columns)


def _at_least(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return (Q, h, w) masks no coarser than the grid, so that each of its cells has values of its own."""
    size = (max(masks.shape[1], grid[0]), max(masks.shape[2], grid[1]))
    if size == tuple(masks.shape[1:]):
        return masks
    return F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def _covered(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    return F.adaptive_max_pool2d(masks, grid) >= 0.5


def _shares(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (Q, L) weights that sum to one a row, evenly spread where a row has none."""
    weights = weights.to(dtype)
    total = weights.sum(dim=1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp(min=1e-6), 1 / weights.shape[1])


def _pool_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return (1 + h w, C) positions of an attention pool, interpolated to another grid than its own."""
    side = round((len(positions) - 1) ** 0.5)
    if grid == (side, side):
        return positions
    own = positions[1:].T.reshape(1, -1, side, side).float()
    resized = F.interpolate(own, grid, mode="bicubic", align_corners=False)[0].flatten(1).T
    return torch.cat((positions[:1].float(), resized))
