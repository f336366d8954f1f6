"""Single-pass classification on real, small, random towers: what it must equal, and what it must survive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from maskmill.model.clip import vit
from maskmill.model.clip.clip import Clip
from maskmill.model.clip.image_encoder import ImageEncoder
from maskmill.model.clip.loading import new_clip
from maskmill.model.naming.classifier import Classifier
from maskmill.model.naming.settings import NamingSettings
from maskmill.model.networks.device_policy import CPU_POLICY
from maskmill.model.networks.micro_batch import MicroBatches
from maskmill.model.vocabulary import Vocabulary

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 64, "layers": 3, "width": 64, "head_width": 16, "patch_size": 16}
TOWERS: dict[str, dict[str, Any]] = {
    "vit-quickgelu": {"vision_cfg": VIT, "quick_gelu": True},
    "vit-gelu": {"vision_cfg": VIT, "quick_gelu": False},
    "resnet": {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}, "quick_gelu": False},
    "convnext": {
        "vision_cfg": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
        "quick_gelu": False,
    },
}


def clip_with(tower: str) -> Clip:
    torch.manual_seed(0)
    clip = new_clip({"embed_dim": 24, "text_cfg": TEXT, **TOWERS[tower]})
    for name, buffer in clip.model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)  # as after training, not the identity
    for block in (module for name, module in clip.model.visual.named_modules() if name.endswith("bn3")):
        torch.nn.init.uniform_(block.weight)  # new residual branches begin at zero
    clip.model.eval().requires_grad_(False)
    return clip


def encoder_in(tower: str, dtype: torch.dtype) -> ImageEncoder:
    clip = clip_with(tower)
    clip.model.visual.to(dtype)
    return ImageEncoder(clip)


def single_pass(encoder: ImageEncoder, region: str) -> Callable[..., Tensor]:
    return encoder.attend if region == "attend" else encoder.pool


PAIRS = [("vit-quickgelu", "attend"), ("vit-gelu", "attend"), ("resnet", "attend"), ("resnet", "pool")]
PAIRS += [("convnext", "pool")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tower", TOWERS)
def test_no_embedding_depends_on_the_other_sub_images(tower: str, dtype: torch.dtype) -> None:
    encoder = encoder_in(tower, dtype)
    parts = [torch.randn(count, 3, 64, 64) for count in (5, 1, CPU_POLICY.same_size + 2, 7)]
    together = encoder.encode_apart(parts)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2  # measured: 6e-7 and 0, of values up to 2
    torch.testing.assert_close(together, encoder.encode(torch.cat(parts)), atol=tolerance, rtol=tolerance)
    alone = [encoder.encode_apart([part]) for part in parts]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(encoder.encode_apart(parts[::-1]), torch.cat(alone[::-1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tower", TOWERS)
def test_the_blank_embedding_is_that_of_a_blank_sub_image_among_others(tower: str, dtype: torch.dtype) -> None:
    encoder = encoder_in(tower, dtype)
    shown = torch.randn(3, 3, 64, 64)
    shown[1] = 0
    assert torch.equal(encoder.encode_apart([shown])[1:2], encoder.blank)


def test_no_sub_images_have_no_embeddings() -> None:
    encoder = ImageEncoder(clip_with("vit-gelu"))
    assert encoder.encode_apart([]).shape == encoder.encode(torch.empty(0, 3, 64, 64)).shape == (0, encoder.embed_dim)


@pytest.mark.parametrize("tower", TOWERS)
def test_sub_images_are_embedded_as_open_clip_does(tower: str) -> None:
    clip = clip_with(tower)
    images = torch.randn(5, 3, 64, 64)
    expected = clip.encode_image(images)
    torch.testing.assert_close(ImageEncoder(clip).encode(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("tower", "region"), PAIRS)
def test_a_full_mask_reproduces_encode_image(tower: str, region: str) -> None:
    clip = clip_with(tower)
    image = torch.randn(3, 64, 64)
    embedded = single_pass(ImageEncoder(clip), region)(image, torch.ones(2, 16, 16), short_side=64)
    torch.testing.assert_close(embedded, clip.encode_image(image[None]).expand(2, -1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("tower", "region"), PAIRS)
def test_empty_masks_and_other_sizes_stay_finite(tower: str, region: str) -> None:
    encoder = ImageEncoder(clip_with(tower))
    masks = torch.zeros(3, 20, 32)
    masks[1, 5:9, 5:30] = 1
    masks[2] = 1
    embedded = single_pass(encoder, region)(torch.randn(3, 80, 128), masks, short_side=96)
    assert embedded.shape == (3, 24)
    assert embedded.isfinite().all()
    assert not torch.allclose(embedded[0], embedded[1], atol=1e-4)


@pytest.mark.parametrize(("tower", "region"), PAIRS)
def test_a_mask_is_embedded_alike_whatever_masks_come_with_it(tower: str, region: str) -> None:
    encoder = ImageEncoder(clip_with(tower))
    image = torch.randn(3, 64, 64)
    masks = (torch.randn(4, 16, 16) > 0).float()
    together = single_pass(encoder, region)(image, masks, short_side=64)
    alone = torch.cat([single_pass(encoder, region)(image, mask[None], short_side=64) for mask in masks])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_attending_from_the_first_block_sees_only_the_class_token_and_the_mask() -> None:
    """Pixels outside the mask reach the copies only through the image's own class token, silenced here."""
    clip = clip_with("vit-quickgelu")
    encoder = ImageEncoder(clip)
    masks = torch.zeros(1, 16, 16)
    masks[0, :8, :8] = 1
    image = torch.randn(3, 64, 64)
    changed = image.clone()
    changed[:, 32:] += 5
    last = encoder.start_layer(2)
    features = [encoder.attend(own, masks, short_side=64, start_layer=last) for own in (image, changed)]
    early = [encoder.attend(own, masks, short_side=64, start_layer=0) for own in (image, changed)]
    assert (early[0] - early[1]).norm() < (features[0] - features[1]).norm()


def test_half_precision_stays_close() -> None:
    clip = clip_with("vit-quickgelu")
    images, masks = torch.randn(3, 64, 64), (torch.randn(4, 16, 16) > 0).float()
    expected = ImageEncoder(clip).attend(images, masks, short_side=64)
    clip.model.visual.to(torch.bfloat16)
    ours = ImageEncoder(clip).attend(images, masks, short_side=64)
    assert ours.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(ours, expected).min() > 0.995


@pytest.mark.parametrize("tower", ["vit-quickgelu", "vit-gelu"])
def test_short_attention_in_half_precision_is_the_fused_kernel_s(tower: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, images = clip_with(tower), torch.randn(5, 3, 64, 64)
    expected = ImageEncoder(clip).encode(images)
    clip.model.visual.to(torch.bfloat16)
    plain = ImageEncoder(clip).encode(images)
    monkeypatch.setattr(vit, "SHORT_SEQUENCE", 0)
    fused = ImageEncoder(clip).encode(images)
    assert not torch.equal(plain, fused)  # or one of them did not run
    # Either is about as far from float32 as the other: 2.7e-5 to 3.8e-5 measured.
    for own in (plain, fused):
        assert torch.nn.functional.cosine_similarity(own, expected).min() > 0.9999


@pytest.mark.parametrize(
    ("tower", "region", "choose"), [("convnext", "attend", "pool"), ("vit-gelu", "pool", "attend")]
)
def test_a_tower_that_cannot_is_refused_with_what_it_can(tower: str, region: str, choose: str) -> None:
    clip = clip_with(tower)
    with pytest.raises(ValueError, match=f"choose '{choose}'"):
        Classifier(clip, Vocabulary(["a", "b"]), NamingSettings(region=region, fusion="clip"))


def test_a_start_beyond_the_last_block_is_refused() -> None:
    settings = NamingSettings(region="attend", fusion="clip", attend_layer=3)
    with pytest.raises(ValueError, match="0 to 2"):
        Classifier(clip_with("vit-gelu"), Vocabulary(["a", "b"]), settings)
    assert ImageEncoder(clip_with("vit-gelu")).start_layer(None) == 2


def test_the_released_tower_starts_at_eight_of_twelve() -> None:
    config = open_clip.get_model_config("ViT-B-16-quickgelu")
    assert config["vision_cfg"]["layers"] * 2 // 3 == 8


def test_memory_errors_halve_the_batch_for_good() -> None:
    """The device is played by a function that raises PyTorch's own error beyond three inputs."""
    sizes: list[int] = []

    def run(start: int, stop: int) -> range:
        sizes.append(stop - start)
        if stop - start > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return range(start, stop)

    batches = MicroBatches(pixels=8 * 100)
    assert [at for part in batches(run, 10, 100) for at in part] == list(range(10))
    assert sizes == [8, 4, 2, 2, 2, 2, 2]
    sizes.clear()
    assert len(batches(run, 4, 100)) == 2
    assert sizes == [2, 2]


def test_one_input_too_much_is_raised() -> None:
    def run(start: int, stop: int) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        MicroBatches(pixels=100)(run, 4, 100)
