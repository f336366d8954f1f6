from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.model.naming import semantic
from maskmill.model.naming.resample import resize_rows, taps
from maskmill.model.naming.semantic import Frame, SemanticSum
from maskmill.model.networks.device_policy import CPU_POLICY

Golden = Callable[[str], dict[str, np.ndarray]]

FRAMES = [
    Frame(padded_size=(64, 96), image_size=(50, 90), output_size=(50, 90)),
    Frame(padded_size=(64, 96), image_size=(50, 90), output_size=(131, 77)),
    Frame(padded_size=(64, 96), image_size=(64, 96), output_size=(17, 300)),
    Frame(padded_size=(64, 96), image_size=(33, 96), output_size=(7, 5)),
    Frame(padded_size=(64, 96), image_size=(1, 1), output_size=(9, 4)),
    Frame(padded_size=(64, 96), image_size=(40, 70), output_size=(1, 1)),
]


def semantic_sum(frame: Frame, *, resize_masks_first: bool = False, classes: int = 7) -> SemanticSum:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 12, 5, 7, generator=generator) * 6 - 2
    return SemanticSum(
        scores=torch.rand(12, classes, generator=generator) ** 3,
        mask_logits=F.interpolate(coarse, (16, 24), mode="bicubic")[0],
        frame=frame,
        offsets=torch.rand(classes, generator=generator) * 0.2,
        resize_masks_first=resize_masks_first,
    )


def plain_class_map(own: SemanticSum) -> Tensor:
    """The release's way: everything at once."""

    def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]

    height, width = own.frame.image_size
    masks = resize(own.mask_logits, own.frame.padded_size)[:, :height, :width]
    if own.resize_masks_first:
        summed = torch.einsum("qc,qhw->chw", own.scores, resize(masks, own.frame.output_size).sigmoid())
    else:
        summed = resize(torch.einsum("qc,qhw->chw", own.scores, masks.sigmoid()), own.frame.output_size)
    return summed - own.offsets[:, None, None]


def label_map(own: SemanticSum) -> Tensor:
    return torch.cat([labels for _, labels in own.label_bands()])


@pytest.mark.parametrize("resize_masks_first", [False, True])
@pytest.mark.parametrize("frame", FRAMES)
def test_class_map_equals_the_plain_sum(frame: Frame, resize_masks_first: bool) -> None:
    own = semantic_sum(frame, resize_masks_first=resize_masks_first)
    # Up to 5e-7 measured where scores reach 3.
    torch.testing.assert_close(own.class_map(), plain_class_map(own), atol=5e-6, rtol=0)


@pytest.mark.parametrize("resize_masks_first", [False, True])
@pytest.mark.parametrize("frame", FRAMES)
def test_label_map_is_the_argmax_of_the_class_map(frame: Frame, resize_masks_first: bool) -> None:
    own = semantic_sum(frame, resize_masks_first=resize_masks_first)
    labels = label_map(own)
    assert labels.shape == frame.output_size
    assert torch.equal(labels, plain_class_map(own).argmax(dim=0))


@pytest.mark.parametrize("resize_masks_first", [False, True])
@pytest.mark.parametrize("frame", FRAMES)
def test_bands_change_nothing(frame: Frame, resize_masks_first: bool) -> None:
    own = semantic_sum(frame, resize_masks_first=resize_masks_first)
    whole = label_map(own), own.class_map()
    assert len(list(own.label_bands())) == 1
    own = replace(own, policy=replace(CPU_POLICY, band_pixels=2 * frame.output_size[1]))
    banded = label_map(own), own.class_map()
    assert len(list(own.label_bands())) == -(-frame.output_size[0] // 2)
    assert banded[0].shape == whole[0].shape
    assert torch.equal(banded[0], whole[0])
    # Matrix products of other widths may round otherwise.
    torch.testing.assert_close(banded[1], whole[1], atol=1e-6, rtol=0)


def test_points_between_classes_are_taken_in_chunks() -> None:
    own = semantic_sum(FRAMES[1])
    whole = label_map(own)
    rows = semantic.output_rows(own.frame, 0, own.frame.output_size[0])
    values = torch.addmm(
        -own.offsets, semantic.image_rows(own.mask_logits, own.frame, *rows.span).sigmoid().flatten(1).T, own.scores
    )
    policy = replace(CPU_POLICY, map_floats=4 * 7 * 11)
    sizes = []

    def choose(values: Tensor) -> Tensor:
        sizes.append(len(values))
        return values.argmax(dim=1)

    assert torch.equal(semantic.choose_resized(values, choose, own.frame, rows, policy), whole)
    assert max(sizes[1:]) == 11


def test_a_large_output_is_made_of_small_bands() -> None:
    frame = Frame(padded_size=(640, 640), image_size=(640, 640), output_size=(10_000, 10_000))
    bands = list(semantic.row_bands(frame, channels=847))
    assert bands[0][0] == 0
    assert bands[-1][1] == 10_000
    assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(bands))
    # One class map of the image's rows that a band needs, and of its output pixels.
    rows_of_image = max(stop - start for start, stop in bands) * 640 / 10_000 + 2
    assert rows_of_image * 640 * 847 <= CPU_POLICY.map_floats
    assert max(stop - start for start, stop in bands) * 10_000 <= CPU_POLICY.band_pixels
    for start, stop in semantic.row_bands(frame, channels=171, at_output=True):
        assert (stop - start) * 10_000 * 171 <= CPU_POLICY.map_floats


@pytest.mark.parametrize("prompts_mode", ["single__noclip", "single__noclip__postbefore", "imagenet_select__noclip"])
@pytest.mark.parametrize("image_name", ["A", "B"])
def test_query_branch_maps_equal_the_release(golden: Golden, prompts_mode: str, image_name: str) -> None:
    common, expected = golden("common"), golden(f"infer__{prompts_mode}")
    prompts = prompts_mode.split("__")[0]
    own = golden_sum(
        torch.from_numpy(common[f"{image_name}_pred_logits_{prompts}"][0]).softmax(-1)[:, :-1],
        common,
        image_name,
        tuple(common[f"{image_name}_out_hw"].tolist()),
        resize_masks_first=prompts_mode.endswith("postbefore"),
    )
    # 5e-7 measured, of scores with a range of 1 to 3; no pixel differs.
    np.testing.assert_allclose(own.class_map().numpy(), expected[f"{image_name}_sem_seg"], atol=1e-5)
    assert np.mean(label_map(own).numpy() == expected[f"{image_name}_argmax"]) >= 0.999


def test_other_output_sizes_equal_the_release(golden: Golden) -> None:
    common = golden("common")
    scores = {name: torch.from_numpy(common[f"{name}_pred_logits_single"][0]).softmax(-1)[:, :-1] for name in "AB"}
    same = golden_sum(scores["B"], common, "B", (120, 90))
    np.testing.assert_allclose(same.class_map().numpy(), common["B_noclip_default_size_sem_seg"], atol=1e-5)
    up = golden_sum(scores["A"], common, "A", (110, 147))
    np.testing.assert_allclose(up.class_map()[3].numpy(), common["A_noclip_up110x147_class3"], atol=1e-5)
    assert np.mean(label_map(up).numpy() == common["A_noclip_up110x147_argmax"]) >= 0.999


def golden_sum(
    scores: Tensor,
    common: dict[str, np.ndarray],
    image_name: str,
    output_size: tuple[int, ...],
    resize_masks_first: bool = False,
) -> SemanticSum:
    height, width = common[f"{image_name}_image_uint8_chw"].shape[1:]
    padded = (-(-height // 32) * 32, -(-width // 32) * 32)
    return SemanticSum(
        scores=scores,
        mask_logits=torch.from_numpy(common[f"{image_name}_pred_masks"][0]),
        frame=Frame(padded_size=padded, image_size=(height, width), output_size=(output_size[0], output_size[1])),
        offsets=torch.zeros(scores.shape[1]),
        resize_masks_first=resize_masks_first,
    )


@pytest.mark.parametrize("size", [(16, 24), (64, 96), (15, 23), (5, 7), (33, 200), (1, 1)])
def test_rows_of_a_resize_equal_the_whole(size: tuple[int, int]) -> None:
    maps = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
    for start in range(0, size[0], 4):
        stop = min(start + 4, size[0])
        rows = resize_rows(maps, taps(16, size[0], start, stop), size[1])
        torch.testing.assert_close(rows, whole[:, start:stop], atol=2e-6, rtol=0)
