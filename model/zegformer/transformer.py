"""The DETR transformer: learned queries attend to an image feature and become segments (paper section 3.1).

Legend for shapes: B images, Q queries, L = h x w memory cells, C hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SINE_TEMPERATURE = 10_000.0
"""Ratio of the longest to the shortest wavelength of the position encoding (DETR)."""


def sine_positions(height: int, width: int, channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the normalised sine position encoding, (channels, height, width) float32.

    The first half of the channels encodes the row, the second the column; within a half, sines and cosines
    alternate. Positions are 1-based and scaled to 0..2 pi over the whole feature, padding included.
    """
    half = channels // 2
    frequency_index = torch.arange(half, dtype=torch.float32, device=device) // 2
    wavelengths = SINE_TEMPERATURE ** (2 * frequency_index / half)

    def encode(length: int) -> Tensor:
        positions = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        angles = (positions / (length + 1e-6) * (2 * math.pi))[:, None] / wavelengths
        return torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), dim=2).flatten(1)

    rows = encode(height)[:, None, :].expand(height, width, half)
    columns = encode(width)[None, :, :].expand(height, width, half)
    return torch.cat((rows, columns), dim=2).permute(2, 0, 1)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network over the memory, each followed by its LayerNorm (post-norm)."""

    def __init__(self, hidden_dim: int, heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(hidden_dim, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(hidden_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, hidden_dim)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, memory_BLC: Tensor, positions_BLC: Tensor) -> Tensor:
        at = memory_BLC + positions_BLC
        attended = self.self_attn(at, at, memory_BLC, need_weights=False)[0]
        x = self.norm1(memory_BLC + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(hidden)))


class DecoderLayer(nn.Module):
    """Self-attention among queries, cross-attention to the memory, feed-forward network; post-norm."""

    def __init__(self, hidden_dim: int, heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(hidden_dim, heads, dropout=dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(hidden_dim, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(hidden_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, hidden_dim)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.norm3 = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries_BQC: Tensor,
        query_positions_BQC: Tensor,
        keys_BLC: Tensor,
        values_BLC: Tensor,
        hidden_from_query_BQL: Tensor | None = None,
    ) -> Tensor:
        """``hidden_from_query_BQL`` is True where a query must not look; a query that sees nothing is not allowed.

        keys, values: this layer's projections of the memory (``memory_projections``).
        """
        at = queries_BQC + query_positions_BQC
        attended = self.self_attn(at, at, queries_BQC, need_weights=False)[0]
        x = self.norm1(queries_BQC + self.dropout(attended))
        attended = self._cross_attention(x + query_positions_BQC, keys_BLC, values_BLC, hidden_from_query_BQL)
        x = self.norm2(x + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm3(x + self.dropout(self.linear2(hidden)))

    def _cross_attention(
        self, at_BQC: Tensor, keys_BLC: Tensor, values_BLC: Tensor, hidden_BQL: Tensor | None
    ) -> Tensor:
        """``nn.MultiheadAttention`` but for its projections of keys and values, which are given."""
        attention = self.multihead_attn
        width = attention.embed_dim

        def heads(x_BNC: Tensor) -> Tensor:
            return x_BNC.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

        queries = F.linear(at_BQC, attention.in_proj_weight[:width], attention.in_proj_bias[:width])
        attended = F.scaled_dot_product_attention(
            heads(queries),
            heads(keys_BLC),
            heads(values_BLC),
            attn_mask=None if hidden_BQL is None else ~hidden_BQL[:, None],
            dropout_p=attention.dropout if self.training else 0.0,
        )
        return attention.out_proj(attended.transpose(1, 2).flatten(2))


def memory_projections(
    layers: Iterable[DecoderLayer], memory_BLC: Tensor, positions_BLC: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return the keys and values (B, L, C) of every layer.

    All layers look at the same memory, so two matrix products make what would otherwise take two a layer.
    """
    attentions = [layer.multihead_attn for layer in layers]
    width = attentions[0].embed_dim

    def project(inputs_BLC: Tensor, part: int) -> tuple[Tensor, ...]:
        rows = slice(part * width, (part + 1) * width)
        weights = torch.cat([attention.in_proj_weight[rows] for attention in attentions])
        biases = torch.cat([attention.in_proj_bias[rows] for attention in attentions])
        return F.linear(inputs_BLC, weights, biases).chunk(len(attentions), dim=-1)

    return list(zip(project(memory_BLC + positions_BLC, 1), project(memory_BLC, 2), strict=True))


class Transformer(nn.Module):
    """DETR's encoder (possibly of no layers) and decoder; the decoder's LayerNorm ends the output of every layer."""

    def __init__(
        self,
        hidden_dim: int,
        heads: int,
        feedforward_dim: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        sizes = (hidden_dim, heads, feedforward_dim, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(decoder_layers))
        self.norm = nn.LayerNorm(hidden_dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        memory_BChw: Tensor,
        query_positions_QC: Tensor,
        hidden_cells: Callable[[Tensor], Tensor] | None = None,
    ) -> list[Tensor]:
        """Return the normalised queries (B, Q, C) after every decoder layer, last is final.

        hidden_cells: from one layer's normalised queries, the memory cells (B, Q, L) hidden from each query in the
            next layer (True = hidden), for masked attention; None lets every query see everything.
        """
        batch, channels, height, width = memory_BChw.shape
        positions_Chw = sine_positions(height, width, channels, device=memory_BChw.device)
        positions_BLC = positions_Chw.to(memory_BChw.dtype).flatten(1).T.expand(batch, -1, -1)
        memory_BLC = memory_BChw.flatten(2).transpose(1, 2)
        for layer in self.encoder:
            memory_BLC = layer(memory_BLC, positions_BLC)
        query_positions_BQC = query_positions_QC.expand(batch, -1, -1)
        queries_BQC = torch.zeros_like(query_positions_BQC)
        outputs: list[Tensor] = []
        layers = cast(Iterable[DecoderLayer], self.decoder)
        projections = memory_projections(layers, memory_BLC, positions_BLC)
        for layer, (keys_BLC, values_BLC) in zip(layers, projections, strict=True):
            hidden = hidden_cells(outputs[-1]) if hidden_cells is not None and outputs else None
            queries_BQC = layer(queries_BQC, query_positions_BQC, keys_BLC, values_BLC, hidden)
            outputs.append(self.norm(queries_BQC))
        return outputs
