from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from maskmill.model.clip.clip import Clip
from maskmill.model.clip.input import ClipInput
from maskmill.model.clip.loading import load_clip
from maskmill.model.images.boxes import mask_boxes
from maskmill.model.images.preprocess import pad_to_multiple
from maskmill.model.naming.regions import SUB_IMAGE_REGIONS, region_boxes, region_images

Golden = Callable[[str], dict[str, np.ndarray]]
SIDE = 224


@pytest.fixture(scope="module")
def clip(golden_path: Path) -> Clip:
    return load_clip(golden_path / "clip_tiny_openai.pt")


def clip_input(image_chw: np.ndarray) -> Tensor:
    return pad_to_multiple([ClipInput().normalise(image_chw.transpose(1, 2, 0))])[0]


@pytest.mark.parametrize("region", SUB_IMAGE_REGIONS)
def test_thirteen_made_up_masks_equal_the_release(golden: Golden, clip: Clip, region: str) -> None:
    expected = golden("boxes_synthetic")
    image, masks = clip_input(expected["image_uint8_chw"]), torch.from_numpy(expected["pred_masks_at_padded_res"][0])
    seen_by_clip = region_images(image, masks, region, SIDE)
    np.testing.assert_array_equal(seen_by_clip.boxes.numpy(), expected["boxes_xyxy"])
    shown = seen_by_clip.images[seen_by_clip.image_index]
    # No difference measured in the inputs; 2.6e-6 in features that reach 4.
    np.testing.assert_allclose(shown[:, :, 4::8, 4::8].numpy(), expected[f"{region}_clip_input_sub8"], atol=1e-5)
    features = clip.encode_image(seen_by_clip.images)[seen_by_clip.image_index]
    np.testing.assert_allclose(features.numpy(), expected[f"{region}_image_features_raw"], atol=2e-5)


@pytest.mark.parametrize("image_name", ["A", "B"])
@pytest.mark.parametrize("region", ["crop", "cropmask"])
def test_stored_masks_equal_the_release(golden: Golden, clip: Clip, region: str, image_name: str) -> None:
    expected, common = golden(f"clip__{region}"), golden("common")
    image = clip_input(common[f"{image_name}_image_uint8_chw"])
    masks = torch.from_numpy(common[f"{image_name}_pred_masks"][0])
    seen_by_clip = region_images(image, masks, region, SIDE)
    np.testing.assert_array_equal(seen_by_clip.boxes.numpy(), expected[f"{image_name}_boxes_xyxy"])
    shown = seen_by_clip.images[seen_by_clip.image_index]
    subsampled = shown[:, :, 4::8, 4::8].numpy()
    # None measured for crop; 1.2e-5 for cropmask, which samples along one axis at a time.
    np.testing.assert_allclose(subsampled, expected[f"{image_name}_clip_input_sub8"], atol=3e-5)
    np.testing.assert_allclose(shown.mean((2, 3)).numpy(), expected[f"{image_name}_clip_input_mean"], atol=1e-5)
    np.testing.assert_allclose(shown.std((2, 3)).numpy(), expected[f"{image_name}_clip_input_std"], atol=1e-5)
    if image_name == "A":
        (index,) = expected["A_clip_input_full_q_index"].reshape(1)
        np.testing.assert_allclose(shown[index].numpy(), expected["A_clip_input_full_q"][0], atol=3e-5)
    features = clip.encode_image(seen_by_clip.images)[seen_by_clip.image_index]
    np.testing.assert_allclose(features.numpy(), expected[f"{image_name}_image_features_raw"], atol=2e-5)


@pytest.mark.parametrize("image_name", ["A", "B"])
def test_binary_masks_at_padded_size_equal_the_release(golden: Golden, image_name: str) -> None:
    common = golden("common")
    height, width = -(-np.array(common[f"{image_name}_image_uint8_chw"].shape[1:]) // 32) * 32
    logits = torch.from_numpy(common[f"{image_name}_pred_masks"])
    covered = F.interpolate(logits, (int(height), int(width)), mode="bilinear", align_corners=False)[0] > 0
    packed = common[f"{image_name}_binary_mask_padded_packbits"]
    np.testing.assert_array_equal(covered.numpy(), np.unpackbits(packed, axis=-1)[..., :width].astype(bool))


def test_all_empty_masks_share_one_image() -> None:
    masks = torch.full((5, 8, 8), -1.0)
    masks[1, 2:6, 2:6] = 1
    for region in ("mask", "cropmask"):
        seen_by_clip = region_images(torch.randn(3, 32, 32), masks, region, 16)
        assert seen_by_clip.image_index.tolist() == [0, 1, 0, 0, 0]
        assert seen_by_clip.images.shape == (2, 3, 16, 16)
        assert not seen_by_clip.images[0].any()
        assert seen_by_clip.images[1].any()


def test_equal_boxes_share_one_crop() -> None:
    masks = torch.full((4, 8, 8), -1.0)
    masks[1, 2:6, 2:6] = 1
    masks[3] = masks[1]
    seen_by_clip = region_images(torch.randn(3, 32, 32), masks, "crop", 16)
    assert len(seen_by_clip.images) == 2
    index = seen_by_clip.image_index
    assert index[0] == index[2] != index[1] == index[3]


def test_one_query_alone_and_no_empty_mask() -> None:
    mask = torch.full((1, 8, 8), 1.0)
    for region in SUB_IMAGE_REGIONS:
        seen_by_clip = region_images(torch.randn(3, 32, 32), mask, region, 16)
        assert seen_by_clip.images.shape == (1, 3, 16, 16)
        assert seen_by_clip.image_index.tolist() == [0]


def test_mask_with_pixels_may_be_empty_at_clip_size() -> None:
    masks = torch.full((1, 64, 64), -1.0)
    masks[0, 5, 5] = 0.1
    seen_by_clip = region_images(torch.randn(3, 64, 64), masks, "mask", 16)
    assert not seen_by_clip.images.any()


@pytest.mark.parametrize("region", SUB_IMAGE_REGIONS)
def test_each_query_as_if_alone(region: str) -> None:
    """Chunks, sharing and order change nothing: compared with one query at a time, written out plainly."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, 64, 96, generator=generator)
    masks = F.interpolate(torch.randn(1, 21, 4, 6, generator=generator) - 0.8, (16, 24))[0]
    masks[[3, 20]] = -1
    seen_by_clip = region_images(image, masks, region, 32)
    for query, mask in enumerate(masks):
        expected = plain_region(image, mask, region, 32)
        # 7e-6 measured, for cropmask.
        torch.testing.assert_close(seen_by_clip.images[seen_by_clip.image_index[query]], expected, atol=2e-5, rtol=0)


def plain_region(image: Tensor, mask: Tensor, region: str, size: int) -> Tensor:
    logits = F.interpolate(mask[None, None], image.shape[1:], mode="bilinear", align_corners=False)
    if region == "mask":
        small = F.interpolate(image[None], (size, size), mode="bilinear", align_corners=False)[0]
        return small * (F.interpolate(logits, (size, size), mode="bilinear", align_corners=False)[0] > 0)
    rows, columns = torch.nonzero(logits[0, 0] > 0, as_tuple=True)
    box = torch.tensor([0.0, 0.0, image.shape[2], image.shape[1]])
    if len(rows) and rows.max() > rows.min() and columns.max() > columns.min():
        box = torch.stack((columns.min(), rows.min(), columns.max(), rows.max())).float()
    shown = image * (logits[0] > 0) if region == "cropmask" else image
    return roi_align(shown[None], [box[None]], (size, size), aligned=True)[0]


def test_boxes_without_images_are_the_same(golden: Golden) -> None:
    common = golden("common")
    masks = torch.from_numpy(common["A_pred_masks"][0])
    np.testing.assert_array_equal(region_boxes(masks, (96, 128)).numpy(), golden("clip__crop")["A_boxes_xyxy"])


def test_box_of_a_mask_that_touches_the_first_pixel() -> None:
    masks = torch.full((1, 10, 12), -1.0)
    masks[0, :3, :4] = 1
    assert mask_boxes(masks).tolist() == [[0, 0, 3, 2]]


def test_unknown_region_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="crop, mask, cropmask"):
        region_images(torch.zeros(3, 32, 32), torch.zeros(1, 8, 8), "box", 16)
