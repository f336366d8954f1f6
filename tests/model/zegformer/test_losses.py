"""Losses and matching against what the release computes, and the cases it has no figures for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from maskmill.model.zegformer.losses import per_pixel_loss, segment_pixel_loss, segmentation_losses, total_loss
from maskmill.model.zegformer.matcher import UNNAMED, LossWeights, Target, match

Golden = Callable[[str], Mapping[str, np.ndarray]]
CASES = ["loss_a", "loss_zero", "loss_allzero"]
LAYERS = 3


def load(arrays: Mapping[str, np.ndarray]) -> tuple[list[tuple[Tensor, Tensor]], list[Target]]:
    layers = [
        (
            torch.tensor(arrays[f"layer{i}_pred_logits"], requires_grad=True),
            torch.tensor(arrays[f"layer{i}_pred_masks"], requires_grad=True),
        )
        for i in range(LAYERS)
    ]
    targets = [
        Target(labels=torch.tensor(arrays[f"target{b}_labels"]), masks=torch.tensor(arrays[f"target{b}_masks"]))
        for b in range(2)
    ]
    return layers, targets


# Largest relative difference measured: 2e-7.
@pytest.mark.parametrize("case", CASES)
def test_losses_equal_the_release(golden: Golden, case: str) -> None:
    arrays = golden(case)
    layers, targets = load(arrays)
    weights = LossWeights()
    losses = segmentation_losses(layers, targets, weights)
    expected = {key.removeprefix("loss__"): arrays[key] for key in arrays if key.startswith("loss__")}
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(float(value), rel=1e-5), name
    assert total_loss(losses, weights).item() == pytest.approx(float(arrays["total_weighted"]), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_matches_equal_the_release(golden: Golden, case: str) -> None:
    arrays = golden(case)
    layers, targets = load(arrays)
    for index, (class_logits, mask_logits) in enumerate(layers):
        for image, pairs in enumerate(match(class_logits, mask_logits, targets, LossWeights())):
            np.testing.assert_array_equal(pairs.queries, arrays[f"match_layer{index}_img{image}_src"])
            np.testing.assert_array_equal(pairs.targets, arrays[f"match_layer{index}_img{image}_tgt"])


# Largest differences measured, as shares of each array's largest gradient: logits 1.3e-7, masks 3.0e-7.
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_release(golden: Golden, case: str) -> None:
    arrays = golden(case)
    layers, targets = load(arrays)
    total_loss(segmentation_losses(layers, targets, LossWeights()), LossWeights()).backward()
    for index, (class_logits, mask_logits) in enumerate(layers):
        for name, tensor in (("logits", class_logits), ("masks", mask_logits)):
            expected = arrays[f"grad_layer{index}_pred_{name}"]
            assert tensor.grad is not None
            scale = np.abs(expected).max()
            np.testing.assert_allclose(tensor.grad, expected, rtol=0, atol=1e-5 * scale)


def small_case(seed: int = 0) -> tuple[Tensor, Tensor, list[Target]]:
    generator = torch.Generator().manual_seed(seed)
    class_logits = torch.randn(2, 5, 4, generator=generator)
    mask_logits = torch.randn(2, 5, 6, 8, generator=generator)
    targets = [
        Target(
            labels=torch.randint(0, 3, (count,), generator=generator),
            masks=torch.rand(count, 6, 8, generator=generator) > 0.6,
        )
        for count in (3, 2)
    ]
    return class_logits, mask_logits, targets


@pytest.mark.parametrize("mask_loss", ["focal", "bce"])
def test_matching_is_the_cheapest_of_all_assignments(mask_loss: str) -> None:
    class_logits, mask_logits, targets = small_case()
    weights = LossWeights(mask_loss=mask_loss)  # type: ignore[arg-type]

    def cost(image: int, queries: tuple[int, ...]) -> float:
        """The losses of a forced assignment, computed pair by pair from their definitions."""
        total = 0.0
        for target, query in enumerate(queries):
            logits, mask = mask_logits[image, query], targets[image].masks[target]
            probability = torch.where(mask, logits.sigmoid(), 1 - logits.sigmoid())
            pixel = -probability.log()
            if mask_loss == "focal":
                pixel = pixel * (1 - probability) ** 2 * torch.where(mask, 0.25, 0.75)
            overlap = 2 * logits.sigmoid()[mask].sum()
            dice = 1 - (overlap + 1) / (logits.sigmoid().sum() + mask.sum() + 1)
            named = class_logits[image, query].softmax(0)[targets[image].labels[target]]
            total += float(20 * pixel.mean() + dice - named)
        return total

    for image, pairs in enumerate(match(class_logits, mask_logits, targets, weights)):
        best = min(itertools.permutations(range(5), len(targets[image].labels)), key=lambda q: cost(image, q))
        chosen = dict(zip(pairs.targets.tolist(), pairs.queries.tolist(), strict=True))
        assert tuple(chosen[i] for i in range(len(best))) == best


def test_ignored_pixels_change_nothing() -> None:
    class_logits, mask_logits, targets = small_case()
    valid = torch.ones(6, 8, dtype=torch.bool)
    valid[:, 5:] = False
    masked = [Target(labels=t.labels, masks=t.masks & valid, valid=valid) for t in targets]
    changed = mask_logits.clone()
    changed[..., 5:] = 7.0
    weights = LossWeights()
    before = segmentation_losses([(class_logits, mask_logits)], masked, weights)
    after = segmentation_losses([(class_logits, changed)], masked, weights)
    cut = [Target(labels=t.labels, masks=t.masks[..., :5]) for t in targets]
    without = segmentation_losses([(class_logits, mask_logits[..., :5])], cut, weights)
    for name in before:
        assert after[name].item() == before[name].item(), name
        assert before[name].item() == pytest.approx(without[name].item(), rel=1e-6), name


def test_more_targets_than_queries_trains_on_the_best_ones() -> None:
    class_logits, mask_logits, targets = small_case()
    many = [Target(labels=t.labels.repeat(4), masks=t.masks.repeat(4, 1, 1)) for t in targets]
    for pairs in match(class_logits, mask_logits, many, LossWeights()):
        assert sorted(pairs.queries.tolist()) == [0, 1, 2, 3, 4]
        assert len(set(pairs.targets.tolist())) == 5


def test_diverged_training_is_named() -> None:
    class_logits, mask_logits, targets = small_case()
    mask_logits[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        segmentation_losses([(class_logits, mask_logits)], targets, LossWeights())


@pytest.mark.parametrize("values", [{"mask_loss": "l2"}, {"dice": -1.0}])
def test_wrong_weights_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        LossWeights(**values)  # type: ignore[arg-type]


def test_per_pixel_loss_leaves_ignored_pixels_out() -> None:
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.full((1, 4, 4), 255)
    assert per_pixel_loss(logits, labels, ignore=255).item() == 0.0
    labels[0, 0, :2] = torch.tensor([2, 0])
    picked = logits[0].log_softmax(0)[:, 0, :2]
    expected = -(picked[2, 0] + picked[0, 1]) / 2
    assert per_pixel_loss(logits, labels, ignore=255).item() == pytest.approx(expected.item(), rel=1e-6)


def test_unnamed_targets_teach_their_masks_only() -> None:
    generator = torch.Generator().manual_seed(0)
    class_logits = torch.randn(1, 4, 6, generator=generator, requires_grad=True)
    mask_logits = torch.randn(1, 4, 8, 8, generator=generator, requires_grad=True)
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4], masks[1, 4:] = True, True
    unnamed = [Target(labels=torch.tensor([UNNAMED, UNNAMED]), masks=masks)]
    by_mask = LossWeights(classification=0.0)
    named = [Target(labels=torch.tensor([1, 2]), masks=masks)]
    pairs = match(class_logits, mask_logits, unnamed, LossWeights())[0]
    assert pairs.queries.tolist() == match(class_logits, mask_logits, named, by_mask)[0].queries.tolist()

    losses = segmentation_losses([(class_logits, mask_logits)], unnamed, LossWeights())
    total_loss(losses, LossWeights()).backward()
    assert class_logits.grad is not None
    assert mask_logits.grad is not None
    taught = class_logits.grad[0].abs().sum(1) > 0
    assert not taught[pairs.queries].any()
    assert taught.sum() == 2  # the two queries without a target learn "no object"
    assert (mask_logits.grad[0, pairs.queries].abs().sum((1, 2)) > 0).all()

    everything = [Target(labels=torch.tensor([UNNAMED] * 4), masks=masks[[0, 1, 0, 1]])]
    losses = segmentation_losses([(class_logits, mask_logits)], everything, LossWeights())
    assert losses["loss_ce"].item() == 0


def test_small_segments_count_like_large_ones() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.int64)
    labels[0, 0, 0] = 1
    labels[1] = -1
    logits = torch.zeros(2, 3, 4, 4)
    logits[0, 0] = 20.0  # everything is called class 0: one of two segments wrong, one of sixteen pixels
    assert segment_pixel_loss(logits, labels, -1).item() == pytest.approx(10.0, abs=1e-4)
    assert per_pixel_loss(logits, labels, -1).item() == pytest.approx(20 / 16, abs=1e-4)
    unknown = torch.full_like(labels, -1)
    logits.requires_grad_(True)
    loss = segment_pixel_loss(logits, unknown, -1)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
