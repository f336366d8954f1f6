"""Masks of SAM and SAM 2.1 from a grid of points, with tiny random networks and hand-made outputs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maskmill.model.errors import CheckpointError
from maskmill.model.sources.sam import OUTSIDE, GridSettings, SamSource, load
from tests.model.sources.pil_processors import pil_processor
from tests.model.sources.tiny_models import SAMS, save

ANY_MASK = GridSettings(points_per_side=4, least_iou=0, least_stability=0, most_share=1)


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sams")
    return {kind: save(kind, root / kind) for kind in SAMS}


@pytest.mark.parametrize("size", [(97, 140), (140, 97), (64, 64), (20, 60)])
def test_sam_gets_what_the_librarys_processor_makes(folders: dict[str, Path], size: tuple[int, int]) -> None:
    processor = pil_processor("sam")(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    theirs = processor(picture(size), return_tensors="pt")["pixel_values"][0]
    assert (load(folders["sam"]).prepare(picture(size)) - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", SAMS)
@pytest.mark.parametrize("size", [(300, 100), (100, 300), (50, 50)])
def test_the_grid_reaches_every_corner(folders: dict[str, Path], kind: str, size: tuple[int, int]) -> None:
    source = load(folders[kind])
    # The picture lies in the upper left of SAM's input, and fills all of SAM 2's.
    scale = source.side / max(size)
    width, height = (source.side,) * 2 if kind == "sam2" else (round(size[1] * scale), round(size[0] * scale))
    points = source.points(*size)
    assert len(points) == 32 * 32
    half_step = torch.tensor([width, height]) / 64
    torch.testing.assert_close(points.min(dim=0).values, half_step)
    torch.testing.assert_close(points.max(dim=0).values, torch.tensor([width, height]) - half_step)


@pytest.mark.parametrize("kind", SAMS)
def test_proposals_are_the_networks_masks(folders: dict[str, Path], kind: str) -> None:
    source = load(folders[kind], settings=ANY_MASK)
    image = picture((60, 100))
    [own] = source([image])
    assert own.image_size == (60, 100)
    assert own.padded_size == ((60, 100) if kind == "sam2" else (100, 100))
    with torch.inference_mode():
        embedded = source.network.get_image_embeddings(source.prepare(image)[None])
        points = source.points(60, 100)
        output = source.network(
            image_embeddings=embedded,
            input_points=points[None, :, None],
            input_labels=torch.ones(1, len(points), 1, dtype=torch.int64),
        )
    masks = output.pred_masks[0].flatten(0, 1)
    if kind == "sam":
        masks = masks.clone()
        masks[:, 10:] = OUTSIDE  # 60 of 100 rows are 38.4 of 64 pixels, 10 of 16 rows of cells
    for mask in own.mask_logits:
        assert (masks - mask).flatten(1).abs().max(dim=1).values.min() <= 1e-5


@pytest.mark.parametrize("kind", SAMS)
def test_no_result_depends_on_companions(folders: dict[str, Path], kind: str) -> None:
    source = load(folders[kind], settings=ANY_MASK)
    images = [picture((60, 100), 1), picture((50, 50), 2)]
    together, alone = source(images), [source([image])[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.mask_logits, other.mask_logits)


class HandMade(torch.nn.Module):
    """A network whose masks and estimates are given: point p has three masks of 16 x 16 cells."""

    def __init__(self, masks: torch.Tensor, iou: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.masks, self.iou = masks, iou
        self.config = SimpleNamespace(prompt_encoder_config=SimpleNamespace(image_size=64))
        self.decoded_at_once = 0

    def get_image_embeddings(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels

    def forward(self, input_points: torch.Tensor, **others: Any) -> SimpleNamespace:
        # The grid has 2 x 2 points at 16 and 48.
        points = input_points[0, :, 0]
        self.decoded_at_once = max(self.decoded_at_once, len(points))
        index = (points[:, 1] > 32).long() * 2 + (points[:, 0] > 32).long()
        return SimpleNamespace(pred_masks=self.masks[index][None], iou_scores=self.iou[index][None])


def box_mask(top: int, left: int, bottom: int, right: int, sure: float = 5.0) -> torch.Tensor:
    mask = torch.full((16, 16), -sure)
    mask[top:bottom, left:right] = sure
    return mask


@pytest.fixture
def hand_made() -> SamSource:
    """Twelve masks of which three are to stay."""
    nothing = torch.full((16, 16), -5.0)
    masks = torch.stack(
        [
            torch.stack([box_mask(0, 0, 8, 8), box_mask(0, 0, 8, 9), nothing]),  # the second repeats the first
            torch.stack([box_mask(0, 8, 8, 16), box_mask(0, 8, 4, 16), box_mask(0, 0, 16, 16)]),  # whole picture
            torch.stack([box_mask(8, 0, 16, 8, 0.5), box_mask(9, 1, 10, 2), nothing]),  # unstable; a speck
            torch.stack([box_mask(8, 8, 16, 16), nothing, nothing]),
        ]
    )
    iou = torch.tensor([[0.99, 0.97, 0.9], [0.95, 0.5, 1.0], [0.99, 0.99, 0.9], [0.91, 0.9, 0.9]])
    return SamSource(HandMade(masks, iou), squash=True, settings=GridSettings(points_per_side=2, points_at_once=3))


def test_masks_are_chosen_as_by_hand(hand_made: SamSource) -> None:
    [own] = hand_made([picture((64, 64))])
    expected = torch.stack([box_mask(0, 0, 8, 8), box_mask(0, 8, 8, 16), box_mask(8, 8, 16, 16)])
    assert torch.equal(own.mask_logits, expected)
    torch.testing.assert_close(own.objectness, torch.tensor([0.99, 0.95, 0.91]))


def test_memory_holds_one_batch_of_points(hand_made: SamSource) -> None:
    hand_made([picture((64, 64))])
    assert hand_made.network.decoded_at_once == 3


def test_a_picture_of_nothing_keeps_its_best_mask() -> None:
    masks = torch.stack([torch.stack([box_mask(0, 0, 8, 8)] * 3)] * 4)
    iou = torch.tensor([[0.1, 0.2, 0.1], [0.1, 0.1, 0.7], [0.1, 0.1, 0.1], [0.1, 0.1, 0.1]])
    source = SamSource(HandMade(masks, iou), squash=True, settings=GridSettings(points_per_side=2))
    [own] = source([picture((64, 64))])
    assert len(own.mask_logits) == 1
    torch.testing.assert_close(own.objectness, torch.tensor([0.7]))


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "eomt"}')
    with pytest.raises(CheckpointError, match="supported: sam, sam2"):
        load(tmp_path)
