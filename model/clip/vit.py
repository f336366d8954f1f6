"""CLIP's class-token vision transformer, run block by block: only what is read out is computed.

Legend for shapes: B images, Q masks, P patches, L = 1 + P tokens (the class token first), W width, D embedding size.
"""

from __future__ import annotations

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

SHORT_SEQUENCE = 512
"""Tokens up to which attention in half precision on CPUs is two plain matrix products: with CLIP's 197 they take half
the time of PyTorch's fused kernel (0.014 and 0.027 s an image, measured), whose memory stays small for long ones."""

QUICK_GELU_SLOPE = 1.702
"""QuickGELU is x * sigmoid(1.702 x)."""


def reads_class_token(visual: nn.Module) -> bool:
    """Whether ``ClassTokenTower`` can run this network: a ViT with a class token and blocks as in OpenAI's CLIP."""
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None or visual.pool_type != "tok":
        return False
    return all(type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks)


class ClassTokenTower:
    """The image tower of open_clip's ViTs that read out their class token. Shares the weights it is given.

    Raises ValueError for any other tower.
    """

    def __init__(self, visual: nn.Module) -> None:
        if not reads_class_token(visual):
            raise ValueError(
                f"{type(visual).__name__} is no vision transformer that reads out a class token with blocks as in "
                "OpenAI's CLIP"
            )
        assert isinstance(visual, VisionTransformer)
        self.visual = visual
        self.blocks = list(visual.transformer.resblocks)

    @property
    def patch_size(self) -> tuple[int, int]:
        """(height, width) of a patch in pixels."""
        return self.visual.patch_size

    def embed(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, S, S) as ``visual(images)`` does; (B, D).

        The last block is run for the class token alone, which is all that is read from it.
        """
        tokens = self._tokens(images)
        for block in self.blocks[:-1]:
            tokens = _block(block, tokens)
        return self._read_out(_look(self.blocks[-1], tokens[:, :1], _normed_keys(self.blocks[-1], tokens)))[:, 0]

    def attend(self, images: Tensor, covered: Tensor, start_layer: int) -> Tensor:
        """Embed what lies under masks in one pass over each image; (B, Q, D).

        From block ``start_layer`` on, a copy of the class token for each mask looks at the image's own class token and
        at the patches its mask covers. Nothing looks at the copies, so the image's tokens stay exactly CLIP's; a mask
        that covers every patch gives the embedding of the image.

        images: (B, 3, H, W), sides multiples of the patch size; positions are interpolated for sizes other than
        CLIP's own. covered: (B, Q, P) bool, patches row by row. start_layer: 0 up to the last block's index.
        """
        tokens = self._tokens(images)
        for block in self.blocks[:start_layer]:
            tokens = _block(block, tokens)
        copies = tokens[:, :1].expand(-1, covered.shape[1], -1)
        # Added to attention logits, so as numbers: open_clip would turn booleans into a bias of 0 or 1.
        hidden = torch.zeros(covered.shape, dtype=tokens.dtype, device=tokens.device)
        hidden.masked_fill_(~covered, float("-inf"))
        bias = F.pad(hidden, (1, 0))[:, None]
        for block in self.blocks[start_layer:]:
            keys = _normed_keys(block, tokens)
            copies = _look(block, copies, keys, bias)
            if block is not self.blocks[-1]:
                tokens = _look(block, tokens, keys)
        return self._read_out(copies)

    def _tokens(self, images: Tensor) -> Tensor:
        visual = self.visual
        patches = visual.conv1(images)
        grid = (patches.shape[2], patches.shape[3])
        patches = patches.flatten(2).transpose(1, 2)
        class_token = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat((class_token, patches), dim=1) + self._positions(grid).to(patches.dtype)
        return visual.ln_pre(visual.patch_dropout(tokens))

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Return (L, W) position embeddings for a grid of (rows, columns) patches."""
        positions = self.visual.positional_embedding
        if grid == tuple(self.visual.grid_size):
            return positions
        own = positions[1:].T.reshape(1, -1, *self.visual.grid_size).float()
        resized = F.interpolate(own, grid, mode="bicubic", align_corners=False, antialias=False)
        return torch.cat((positions[:1].float(), resized[0].flatten(1).T))

    def _read_out(self, class_tokens: Tensor) -> Tensor:
        pooled = self.visual.ln_post(class_tokens)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj


def _block(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    return _look(block, tokens, _normed_keys(block, tokens))


Keys = tuple[Tensor, Tensor]


def _normed_keys(block: ResidualAttentionBlock, tokens_BLW: Tensor) -> Keys:
    """Return keys and values (B, heads, L, W / heads) of the tokens."""
    width = tokens_BLW.shape[-1]
    weight, bias = block.attn.in_proj_weight[width:], block.attn.in_proj_bias[width:]
    both = F.linear(block.ln_1(tokens_BLW), weight, bias).view(*tokens_BLW.shape[:2], 2, block.attn.num_heads, -1)
    keys, values = both.permute(2, 0, 3, 1, 4)
    return keys, values


def _look(block: ResidualAttentionBlock, tokens_BNW: Tensor, keys: Keys, bias: Tensor | None = None) -> Tensor:
    """Run one block for ``tokens_BNW``, which look at the given keys; bias: (B, 1, N, L) added to their logits."""
    count, width = tokens_BNW.shape[1:]
    weight, offset = block.attn.in_proj_weight[:width], block.attn.in_proj_bias[:width]
    queries = F.linear(block.ln_1(tokens_BNW), weight, offset)
    queries = queries.view(-1, count, block.attn.num_heads, width // block.attn.num_heads).transpose(1, 2)
    seen = _attention(queries, keys, bias)
    seen = block.attn.out_proj(seen.transpose(1, 2).reshape(-1, count, width))
    tokens_BNW = tokens_BNW + block.ls_1(seen)
    return tokens_BNW + block.ls_2(_feed_forward(block.mlp, block.ln_2(tokens_BNW)))


def _attention(queries_BHNK: Tensor, keys: Keys, bias: Tensor | None) -> Tensor:
    keys_BHLK, values_BHLK = keys
    plain = queries_BHNK.device.type != "cpu" or queries_BHNK.dtype == torch.float32
    if plain or bias is not None or keys_BHLK.shape[2] > SHORT_SEQUENCE:
        return F.scaled_dot_product_attention(queries_BHNK, keys_BHLK, values_BHLK, attn_mask=bias)
    queries, all_keys, values = (own.flatten(0, 1) for own in (queries_BHNK, keys_BHLK, values_BHLK))
    shares = torch.bmm(queries * queries.shape[2] ** -0.5, all_keys.transpose(1, 2)).softmax(dim=2)
    return torch.bmm(shares, values).view(queries_BHNK.shape)


def _feed_forward(mlp: nn.Sequential, x_BNW: Tensor) -> Tensor:
    first, activation, last = mlp
    if not isinstance(activation, QuickGELU):
        return mlp(x_BNW)
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    # x * sigmoid(1.702 x) is silu(1.702 x) / 1.702, and both factors ride on the matrix products: the activation then
    # takes one pass over the widest tensor of the block instead of three.
    slope = QUICK_GELU_SLOPE
    hidden = torch.addmm(first.bias, x_BNW.flatten(0, 1), first.weight.T, beta=slope, alpha=slope)
    return torch.addmm(last.bias, F.silu(hidden, inplace=True), last.weight.T, alpha=1 / slope).view(x_BNW.shape)
