from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from maskmill.model.naming import quality
from maskmill.model.naming.quality import agreement, class_queries, margin, stability, visible_cells
from maskmill.model.naming.semantic import Frame

UNLABELLED = 65535


def test_stability_by_hand() -> None:
    masks = torch.tensor([[[2.0, 2.0], [0.0, -2.0]], [[-3.0, -3.0], [-3.0, -3.0]], [[5.0, 5.0], [5.0, 5.0]]])
    torch.testing.assert_close(stability(masks), torch.tensor([2 / 3, 0.0, 1.0]))


def test_visible_cells_by_hand() -> None:
    large, small_on_top = [[3.0, 3.0], [3.0, -1.0]], [[-1.0, 4.0], [-1.0, -2.0]]
    masks = torch.tensor([large, small_on_top, [[1.0, 1.0], [1.0, -0.5]], [[-9.0, -9.0], [-9.0, -9.0]]])
    assert visible_cells(masks).tolist() == [2, 1, 0, 0]


def test_margin_by_hand() -> None:
    torch.testing.assert_close(margin(torch.tensor([[0.5, 0.2, 0.4], [0.1, 0.1, 0.0]])), torch.tensor([0.1, 0.0]))
    torch.testing.assert_close(margin(torch.tensor([[0.5]])), torch.tensor([0.5]))


def test_agreement_by_hand() -> None:
    query, clip = torch.tensor([[0.5, 0.2], [0.1, 0.3]]), torch.tensor([[0.6, 0.1], [0.4, 0.3]])
    both = agreement(query, clip)
    assert both is not None
    assert both.tolist() == [True, False]
    assert agreement(query, None) is None


FRAME = Frame(padded_size=(64, 96), image_size=(50, 90), output_size=(200, 360))


def made_up() -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    masks = F.interpolate(torch.randn(1, 6, 5, 7, generator=generator) * 6, (16, 24), mode="bicubic")[0]
    label_map = np.full(FRAME.output_size, UNLABELLED, np.uint16)
    label_map[:100, :200] = 0
    label_map[100:, :100] = 3
    label_map[100:, 300:] = 1
    return label_map, torch.rand(6, 5, generator=generator), masks


def plain_class_queries(label_map: np.ndarray, scores: torch.Tensor, masks: torch.Tensor) -> list[int]:
    """Sum over every pixel instead of samples."""
    height, width = FRAME.image_size
    padded = F.interpolate(masks[None], FRAME.padded_size, mode="bilinear")[:, :, :height, :width].sigmoid()
    at_output = F.interpolate(padded, FRAME.output_size, mode="bilinear")[0]
    best = []
    for label in range(scores.shape[1]):
        region = torch.from_numpy(label_map == label)
        given = scores[:, label] * (at_output * region).sum(dim=(1, 2))
        best.append(int(given.argmax()) if region.any() else -1)
    return best


def test_class_queries_are_those_that_give_most() -> None:
    label_map, scores, masks = made_up()
    found = class_queries(label_map, scores, masks, FRAME)
    assert found.dtype == np.int32
    assert found.tolist() == plain_class_queries(label_map, scores, masks)
    assert (found == -1).tolist() == [False, False, True, False, True]


def test_class_too_small_for_a_sample_gets_the_query_at_its_pixels() -> None:
    label_map, scores, masks = made_up()
    label_map[151, 250] = 2
    label_map[199, 359] = 4
    found = class_queries(label_map, scores, masks, FRAME)
    # The cell that holds the pixel: 4 output pixels to an image pixel, 4 image pixels to a cell.
    cells = {2: masks[:, 151 // 16, 250 // 16], 4: masks[:, 199 // 16, 359 // 16]}
    for label, logits in cells.items():
        assert found[label] == int((scores[:, label] * logits.sigmoid()).argmax())
    before = class_queries(made_up()[0], scores, masks, FRAME)
    assert found[[0, 1, 3]].tolist() == before[[0, 1, 3]].tolist()


def test_rows_looked_at_together_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    label_map, scores, masks = made_up()
    label_map[151, 250] = 2
    whole = class_queries(label_map, scores, masks, FRAME).tolist()
    monkeypatch.setattr(quality, "COUNTED_ROWS", 7)
    assert class_queries(label_map, scores, masks, FRAME).tolist() == whole


@pytest.mark.parametrize("output_size", [(1, 1), (3, 500), (7, 2)])
def test_extreme_sizes_give_every_class_with_pixels_a_query(output_size: tuple[int, int]) -> None:
    frame = Frame(padded_size=(32, 32), image_size=(1, 30), output_size=output_size)
    generator = np.random.default_rng(0)
    label_map = generator.integers(0, 4, output_size).astype(np.uint16)
    found = class_queries(label_map, torch.rand(5, 6), torch.randn(5, 8, 8), frame)
    assert [(label in label_map) for label in range(6)] == (found >= 0).tolist()


def test_nothing_labelled_means_no_query() -> None:
    label_map = np.full((8, 8), UNLABELLED, np.uint16)
    frame = Frame(padded_size=(32, 32), image_size=(32, 32), output_size=(8, 8))
    assert class_queries(label_map, torch.rand(2, 3), torch.randn(2, 8, 8), frame).tolist() == [-1, -1, -1]
