"""The image towers of CLIPs behind one protocol: embed sub-images, or all segments of an image in a single pass.

Legend for shapes: B images, Q masks, C channels, D embedding size, S side of CLIP's input, r x c cells of the tower's
grid, L = r * c, h x w mask cells.
"""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.model.clip.vit import ClassTokenTower, reads_class_token
from maskmill.model.networks.folding import fold_batch_norms

RESNET_STRIDE = 32


class Tower(Protocol):
    """An image tower made ready for inference. Images are in the tower's precision and on its device.

    name: of the network, for messages. regions: which of "attend" and "pool" it can do. stride: (height, width) in
    pixels of a cell of its grid. blocks: how many blocks a single pass can start at; 1 if it attends only at its end.
    """

    name: str
    regions: tuple[str, ...]
    stride: tuple[int, int]
    blocks: int

    def embed(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, S, S); (B, D)."""
        ...

    def attend(self, images: Tensor, masks: Tensor, start_layer: int) -> Tensor:
        """Embed what lies under each mask by attending to its cells only; (B, Q, D).

        images: (B, 3, H, W) of whole cells. masks: (B, Q, h, w) in 0..1 over them, no coarser than the grid.
        start_layer: the block from which on segments are told apart. Only for towers whose ``regions`` say so.
        """
        ...

    def pool(self, images: Tensor, masks: Tensor, *, binary: bool) -> Tensor:
        """Embed the features averaged under each mask; (B, Q, D). As ``attend``; binary: see ``ImageEncoder.pool``."""
        ...


def tower_of(visual: nn.Module) -> Tower:
    """Return the tower for an image network of open_clip. It shares the network's weights, except a ResNet's."""
    if reads_class_token(visual):
        return VisionTransformerTower(visual)
    if isinstance(visual, ModifiedResNet):
        return AttentionPoolTower(visual)
    if _is_convolutional(visual):
        return ConvolutionalTower(visual)
    return PlainTower(visual)


class PlainTower:
    """Any other network: it embeds whole images only."""

    regions: tuple[str, ...] = ()
    stride = (1, 1)
    blocks = 1

    def __init__(self, visual: nn.Module) -> None:
        self.name, self.visual = type(visual).__name__, visual

    def embed(self, images: Tensor) -> Tensor:
        """See ``Tower``."""
        return self.visual(images)

    def attend(self, images: Tensor, masks: Tensor, start_layer: int) -> Tensor:
        """See ``Tower``."""
        raise NotImplementedError(f"{self.name} does not attend to masks")

    def pool(self, images: Tensor, masks: Tensor, *, binary: bool) -> Tensor:
        """See ``Tower``."""
        raise NotImplementedError(f"{self.name} does not pool under masks")


class VisionTransformerTower(PlainTower):
    """A vision transformer that reads out its class token, of which each mask gets a copy."""

    regions: tuple[str, ...] = ("attend",)

    def __init__(self, visual: nn.Module) -> None:
        super().__init__(visual)
        self._tower = ClassTokenTower(visual)
        self.stride, self.blocks = self._tower.patch_size, len(self._tower.blocks)

    def embed(self, images: Tensor) -> Tensor:
        """See ``Tower``."""
        return self._tower.embed(images)

    def attend(self, images: Tensor, masks: Tensor, start_layer: int) -> Tensor:
        """See ``Tower``."""
        return self._tower.attend(images, _covered(masks, images, self.stride).flatten(2), start_layer)


class AttentionPoolTower(PlainTower):
    """A ResNet that attends once, when it reads its features out. Its batch norms are folded in a copy."""

    regions: tuple[str, ...] = ("attend", "pool")
    stride = (RESNET_STRIDE, RESNET_STRIDE)
    visual: ModifiedResNet

    def __init__(self, visual: ModifiedResNet) -> None:
        super().__init__(fold_batch_norms(copy.deepcopy(visual)))

    def attend(self, images: Tensor, masks: Tensor, start_layer: int) -> Tensor:
        """See ``Tower``. The pooling token is the mean over the image."""
        return self._attention_pool(images, masks, own_mean=False)

    def pool(self, images: Tensor, masks: Tensor, *, binary: bool) -> Tensor:
        """See ``Tower``. The pooling token is the mean over the mask, over the image for an empty one."""
        return self._attention_pool(images, masks, own_mean=True)

    def _attention_pool(self, images: Tensor, masks: Tensor, *, own_mean: bool) -> Tensor:
        """Read the features out for each mask: the pooling token looks at itself and at what its mask covers."""
        visual = self.visual
        features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
        positions = _pool_positions(visual.attnpool.positional_embedding, (features.shape[2], features.shape[3]))
        positions = positions.to(features.dtype)
        covered = _covered(masks, images, self.stride).flatten(2)
        read = [self._read(*own, positions, own_mean=own_mean) for own in zip(features, covered, strict=True)]
        return torch.stack(read)

    def _read(self, features: Tensor, seen: Tensor, positions: Tensor, *, own_mean: bool) -> Tensor:
        """Return (Q, D) of one image's features (C, r, c) for masks that see cells (Q, L); positions: (1 + L, C)."""
        head: AttentionPool2d = self.visual.attnpool
        cells = features.flatten(1).T
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
        return head.c_proj((read + shares[:, :, :1] * heads(head.v_proj, tokens_QC)).flatten(1))


class ConvolutionalTower(PlainTower):
    """A timm network that averages a feature map before its head, here under each mask."""

    regions: tuple[str, ...] = ("pool",)
    stride = (RESNET_STRIDE, RESNET_STRIDE)
    visual: TimmModel

    def pool(self, images: Tensor, masks: Tensor, *, binary: bool) -> Tensor:
        """See ``Tower``."""
        features = self.visual.trunk.forward_features(images)
        return torch.stack([self._pooled(*own, binary) for own in zip(features, masks, strict=True)])

    def _pooled(self, features: Tensor, masks: Tensor, binary: bool) -> Tensor:
        """Return (Q, D) of one image's features (C, r, c) under masks (Q, h, w)."""
        grid = (features.shape[1], features.shape[2])
        weights = F.adaptive_avg_pool2d(masks, grid).flatten(1)
        if binary:
            cells = F.interpolate(masks[:, None], grid, mode="bilinear", align_corners=False).flatten(1)
            inside = (cells > 0.5).to(weights.dtype)
            weights = torch.where(inside.any(dim=1, keepdim=True), inside, weights)
        pooled = _shares(weights, features.dtype) @ features.flatten(1).T
        # One cell a mask: the trunk's own pooling has nothing left to average, its norms apply as trained.
        return self.visual.head(self.visual.trunk.forward_head(pooled[:, :, None, None]))


def _is_convolutional(visual: nn.Module) -> bool:
    """Whether the tower is a timm network that averages a feature map before its head."""
    return (
        isinstance(visual, TimmModel)
        and hasattr(visual.trunk, "forward_head")
        and getattr(getattr(visual.trunk, "head", None), "global_pool", None) is not None
    )


def _covered(masks: Tensor, images: Tensor, stride: tuple[int, int]) -> Tensor:
    """Return (B, Q, r, c) bool, the cells of the images' grid in which a mask reaches 0.5."""
    grid = (images.shape[2] // stride[0], images.shape[3] // stride[1])
    return F.adaptive_max_pool2d(masks, grid) >= 0.5


def _shares(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (Q, L) weights that sum to one a row, evenly spread where a row has none."""
    weights = weights.to(dtype)
    total = weights.sum(dim=1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp(min=1e-6), 1 / weights.shape[1])


def _pool_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return (1 + L, C) positions of an attention pool, interpolated to another grid than the one it was trained on."""
    side = round((len(positions) - 1) ** 0.5)
    if grid == (side, side):
        return positions
    trained = positions[1:].T.reshape(1, -1, side, side).float()
    resized = F.interpolate(trained, grid, mode="bicubic", align_corners=False)[0].flatten(1).T
    return torch.cat((positions[:1].float(), resized))
