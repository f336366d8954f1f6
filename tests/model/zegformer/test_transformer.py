"""Position encoding, and attention that sees what it should."""

from __future__ import annotations

import math

import torch

from maskmill.model.zegformer.transformer import DecoderLayer, Transformer, memory_projections, sine_positions


def test_positions_alternate_sine_and_cosine_of_row_then_column():
    positions = sine_positions(height=3, width=5, channels=8)
    assert positions.shape == (8, 3, 5)
    row, column = 2 / 3 * 2 * math.pi, 4 / 5 * 2 * math.pi  # 1-based, over 0..2 pi
    cell = positions[:, 1, 3]
    expected = []
    for angle in (row, column):
        for wavelength in (1.0, 100.0):  # 10000 ** (0/4), 10000 ** (2/4)
            expected += [math.sin(angle / wavelength), math.cos(angle / wavelength)]
    torch.testing.assert_close(cell, torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_hidden_cell_has_no_influence():
    torch.manual_seed(0)
    layer = DecoderLayer(hidden_dim=16, heads=4, feedforward_dim=32, dropout=0.0).eval()
    queries, memory = torch.randn(2, 3, 16), torch.randn(2, 6, 16)
    hidden = torch.zeros(2, 3, 6, dtype=torch.bool)
    hidden[1, 2, 4] = True
    changed = memory.clone()
    changed[1, 4] += 10
    zeros = torch.zeros_like
    before, after = (
        layer(queries, zeros(queries), *memory_projections([layer], own, zeros(own))[0], hidden)
        for own in (memory, changed)
    )
    assert torch.equal(before[0], after[0])
    torch.testing.assert_close(before[1, 2], after[1, 2])
    assert not torch.allclose(before[1, 1], after[1, 1], atol=1e-3)


def test_encoder_layers_refine_the_memory():
    torch.manual_seed(0)
    sizes = {"hidden_dim": 16, "heads": 4, "feedforward_dim": 32, "decoder_layers": 2, "dropout": 0.0}
    with_encoder = Transformer(encoder_layers=1, **sizes).eval()
    without = Transformer(encoder_layers=0, **sizes).eval()
    without.load_state_dict({k: v for k, v in with_encoder.state_dict().items() if not k.startswith("encoder.")})
    memory, queries = torch.randn(1, 16, 4, 4), torch.randn(3, 16)
    first, second = with_encoder(memory, queries), without(memory, queries)
    assert len(first) == len(second) == 2
    assert first[-1].shape == (1, 3, 16)
    assert not torch.allclose(first[-1], second[-1], atol=1e-3)


def test_a_layer_attends_as_multihead_attention_does():
    torch.manual_seed(0)
    first, second = (DecoderLayer(hidden_dim=16, heads=4, feedforward_dim=32, dropout=0.0).eval() for _ in range(2))
    queries, query_positions = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    memory, positions = torch.randn(2, 6, 16), torch.randn(2, 6, 16)
    hidden = torch.rand(2, 3, 6) < 0.3
    for layer, own in zip((first, second), memory_projections([first, second], memory, positions), strict=True):
        at = queries + query_positions
        x = layer.norm1(queries + layer.self_attn(at, at, queries)[0])
        mask = hidden.repeat_interleave(4, dim=0)
        x = layer.norm2(x + layer.multihead_attn(x + query_positions, memory + positions, memory, attn_mask=mask)[0])
        expected = layer.norm3(x + layer.linear2(layer.linear1(x).relu()))
        torch.testing.assert_close(layer(queries, query_positions, *own, hidden), expected, atol=1e-6, rtol=1e-5)
