"""The network equals the release on the golden weights, and its options do what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maskmill.model.images.preprocess import normalise, pad_to_multiple
from maskmill.model.naming.scoring import class_logits
from maskmill.model.zegformer.checkpoint import load_zegformer
from maskmill.model.zegformer.config import BackboneConfig, ZegFormerConfig
from maskmill.model.zegformer.network import ZegFormer, ZegFormerOutput

# Largest difference measured, relative to the range of each array: 7.5e-6 (masks of image B).
RELATIVE_TOLERANCE = 1e-4

SMALL = ZegFormerConfig(
    backbone=BackboneConfig(
        block="basic", layers=(1, 1, 1, 1), stem_channels=24, stage_channels=(24, 48, 96, 160), norm="batch"
    ),
    conv_dim=32,
    mask_dim=32,
    hidden_dim=32,
    heads=4,
    feedforward_dim=64,
    decoder_layers=3,
    queries=5,
    embedding_dim=16,
    dropout=0.0,
    memory_feature="res4",
)


@pytest.fixture(scope="module")
def zegformer(golden_path) -> ZegFormer:
    return load_zegformer(golden_path / "zegformer_tiny.pth")


@pytest.fixture(scope="module")
def outputs(zegformer, golden) -> dict[str, ZegFormerOutput]:
    """What the network says of the golden images A and B, each run alone."""
    common = golden("common")
    images = {name: common[f"{name}_image_uint8_chw"].transpose(1, 2, 0) for name in "AB"}
    with torch.inference_mode():
        return {name: zegformer(pad_to_multiple([normalise(image)])) for name, image in images.items()}


@pytest.mark.parametrize("image", ["A", "B"])
@pytest.mark.parametrize("array", ["res2", "res3", "res4", "res5", "mask_features", "hs_last"])
def test_features_equal_the_release(golden, outputs, relative_difference, image, array):
    output = outputs[image]
    tensors = {**output.features, "mask_features": output.mask_features, "hs_last": output.queries}
    assert relative_difference(tensors[array], golden("common")[f"{image}_{array}"]) <= RELATIVE_TOLERANCE


@pytest.mark.parametrize("image", ["A", "B"])
@pytest.mark.parametrize(("layer", "array"), [(-1, "pred_masks"), (0, "aux0_pred_masks")])
def test_masks_equal_the_release(golden, outputs, relative_difference, image, layer, array):
    masks = outputs[image].layers[layer].mask_logits
    assert relative_difference(masks, golden("common")[f"{image}_{array}"]) <= RELATIVE_TOLERANCE


@pytest.mark.parametrize("image", ["A", "B"])
@pytest.mark.parametrize(
    ("layer", "array", "prompts"),
    [
        (-1, "pred_logits_single", "single"),
        (-1, "pred_logits_imagenet_select", "imagenet_select"),
        (0, "aux0_pred_logits_single", "single"),
        (1, "aux1_pred_logits_single", "single"),
    ],
)
def test_class_logits_equal_the_release(golden, outputs, relative_difference, image, layer, array, prompts):
    text = torch.from_numpy(golden("text_features")[f"{prompts}__text_features_test"])
    output = outputs[image].layers[layer]
    logits = class_logits(output.query_embeddings, output.no_object_logits, text)
    assert relative_difference(logits, golden("common")[f"{image}_{array}"]) <= RELATIVE_TOLERANCE


def test_float64_comes_nearer_to_the_release_in_float64(zegformer, golden, relative_difference):
    common = golden("common")
    image = normalise(common["A_image_uint8_chw"].transpose(1, 2, 0)).double()
    double = ZegFormer(zegformer.config).double().eval()
    double.load_state_dict(zegformer.state_dict())
    with torch.inference_mode():
        masks = double(pad_to_multiple([image])).layers[-1].mask_logits
    # Measured 1.1e-6 (float32 on either side: 7e-6). The input and the sine positions are float32 here too.
    assert relative_difference(masks, common["A_pred_masks_from_float64_run"]) <= 5e-6


def test_a_batch_equals_its_images_run_at_the_batchs_size(zegformer, golden):
    common = golden("common")
    images = [normalise(common[f"{name}_image_uint8_chw"].transpose(1, 2, 0)) for name in "AB"]
    batch = pad_to_multiple(images)
    with torch.inference_mode():
        together = zegformer(batch).layers[-1]
        for index in range(len(images)):
            alone = zegformer(batch[index : index + 1]).layers[-1]
            scale = alone.mask_logits.abs().max()
            # Measured 9.4e-6 of the largest logit: a batch is summed in another order.
            assert (together.mask_logits[index] - alone.mask_logits[0]).abs().max() <= 1e-4 * scale
            torch.testing.assert_close(together.query_embeddings[index], alone.query_embeddings[0], atol=1e-4, rtol=0)


def test_outputs_have_the_stated_shapes():
    output = ZegFormer(SMALL).eval()(torch.zeros(2, 3, 64, 96))
    assert len(output.layers) == 3
    for layer in output.layers:
        assert layer.query_embeddings.shape == (2, 5, 16)
        torch.testing.assert_close(layer.query_embeddings.norm(dim=-1), torch.ones(2, 5))
        assert layer.no_object_logits.shape == (2, 5)
        assert layer.mask_logits.shape == (2, 5, 16, 24)
    assert output.mask_features.shape == (2, 32, 16, 24)
    assert output.queries.shape == (2, 5, 32)
    assert {name: tuple(feature.shape[1:]) for name, feature in output.features.items()} == {
        "res2": (24, 16, 24),
        "res3": (48, 8, 12),
        "res4": (96, 4, 6),
        "res5": (160, 2, 3),
        "p2": (32, 16, 24),
        "p3": (32, 8, 12),
        "p4": (32, 4, 6),
        "p5": (32, 2, 3),
    }


def test_the_final_layer_alone_is_the_same(zegformer, golden, outputs):
    image = normalise(golden("common")["A_image_uint8_chw"].transpose(1, 2, 0))
    with torch.inference_mode():
        final = zegformer(pad_to_multiple([image]), every_layer=False)
    assert len(final.layers) == 1
    assert torch.equal(final.layers[0].mask_logits, outputs["A"].layers[-1].mask_logits)
    kept = {zegformer.config.memory_feature, "p2", "p3", "p4", "p5"}
    assert final.features.keys() == kept < outputs["A"].features.keys()


@pytest.mark.parametrize("memory_feature", ["res2", "res3", "res5", "p3", "p4"])
def test_any_feature_can_be_the_memory(memory_feature):
    model = ZegFormer(replace(SMALL, memory_feature=memory_feature)).eval()
    with torch.inference_mode():
        output = model(torch.randn(1, 3, 64, 64), every_layer=False)
    assert output.layers[-1].mask_logits.isfinite().all()
    assert model.input_projection.in_channels == output.features[memory_feature].shape[1]


def test_masks_of_stride_two_are_twice_as_fine():
    model = ZegFormer(replace(SMALL, conv_dim=64, mask_stride=2)).eval()
    with torch.inference_mode():
        output = model(torch.randn(1, 3, 64, 96))
    assert output.layers[-1].mask_logits.shape == (1, 5, 32, 48)
    assert output.features["p2"].shape[-2:] == (16, 24)
    with torch.inference_mode():
        assert "stem" not in ZegFormer(SMALL).eval()(torch.randn(1, 3, 64, 64)).features


def test_temperature_divides_all_class_logits():
    text = torch.nn.functional.normalize(torch.randn(4, 16), dim=1)
    released, warm = ZegFormer(SMALL).eval(), ZegFormer(replace(SMALL, temperature=0.05)).eval()
    warm.load_state_dict(released.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        sharp, soft = (
            class_logits(layer.query_embeddings, layer.no_object_logits, text)
            for layer in (model(images).layers[-1] for model in (released, warm))
        )
    assert torch.allclose(sharp, 5 * soft, rtol=1e-5, atol=1e-4)


def test_region_names_follow_the_pixels_and_the_outline_of_the_mask_and_leave_the_mask_alone():
    torch.manual_seed(0)
    model = ZegFormer(replace(SMALL, region_names=True))
    assert model.name_state is not None
    queries, pixels = torch.randn(2, 5, 32), torch.randn(2, 32, 32, 32)
    masks = torch.full((2, 5, 32, 32), -50.0)
    masks[..., :12] = 50.0
    masks.requires_grad_(True)
    state = model.name_state(queries, masks, pixels)
    elsewhere, under = pixels.clone(), pixels.clone()
    elsewhere[..., 15:] += 1
    under[0, ..., :10] += 1
    assert torch.allclose(model.name_state(queries, masks, elsewhere), state, atol=1e-5)
    changed = (model.name_state(queries, masks, under) - state).abs().amax(dim=(1, 2))
    assert changed[0] > 1e-2
    assert changed[1] < 1e-5  # the other image of the batch
    outline = masks.detach().clone()
    outline[:, :, 8:24, :12] = -50.0
    assert not torch.allclose(model.name_state(queries, outline, torch.zeros_like(pixels)), state, atol=1e-2)
    empty = model.name_state(queries, torch.full_like(masks, -1e4), pixels)
    assert empty.isfinite().all()
    state.sum().backward()
    assert masks.grad is None


def test_region_names_keep_the_precision_of_the_model():
    torch.manual_seed(0)
    model = ZegFormer(replace(SMALL, region_names=True)).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        whole = model(images, every_layer=False).layers[-1].query_embeddings
        half = model.to(torch.bfloat16)(images.to(torch.bfloat16), every_layer=False).layers[-1].query_embeddings
    assert half.dtype == torch.bfloat16
    # Cosines measured over ten seeds: at least 0.9998.
    assert torch.nn.functional.cosine_similarity(half.float(), whole, dim=-1).min() > 0.999


def test_masked_attention_looks_only_inside_the_previous_mask():
    torch.manual_seed(0)
    model = ZegFormer(replace(SMALL, masked_attention=True, memory_feature="res2")).eval()
    hidden: list[torch.Tensor | None] = []
    for layer in model.transformer.decoder:
        layer.register_forward_pre_hook(lambda _, arguments: hidden.append(arguments[4]))
    with torch.inference_mode():
        output = model(torch.randn(2, 3, 64, 64))
    assert hidden[0] is None
    for mask, previous in zip(hidden[1:], output.layers, strict=False):
        outside = (previous.mask_logits < 0).flatten(2)  # the memory, res2, has the masks' own size
        everything_outside = outside.all(dim=-1, keepdim=True)
        assert torch.equal(mask, outside & ~everything_outside)
        assert mask.any()
    plain = ZegFormer(replace(SMALL, memory_feature="res2")).eval()
    plain.load_state_dict(model.state_dict())
    torch.manual_seed(1)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        first, second = model(images), plain(images)
    assert torch.equal(first.layers[0].mask_logits, second.layers[0].mask_logits)
    assert not torch.allclose(first.layers[-1].mask_logits, second.layers[-1].mask_logits)


def test_a_query_with_an_empty_mask_sees_everything():
    torch.manual_seed(0)
    masked, plain = ZegFormer(replace(SMALL, masked_attention=True)).eval(), ZegFormer(SMALL).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        masked.mask_embedding[-1].weight.zero_()
        masked.mask_embedding[-1].bias.fill_(1.0)
        masked.pixel_decoder.mask_features.weight.zero_()
        masked.pixel_decoder.mask_features.bias.fill_(-1.0)
        plain.load_state_dict(masked.state_dict())
        first, second = masked(images), plain(images)
    assert (first.layers[0].mask_logits < 0).all()
    torch.testing.assert_close(first.queries, second.queries)


def test_a_training_step_reaches_every_parameter():
    torch.manual_seed(0)
    model = ZegFormer(replace(SMALL, masked_attention=True, dropout=0.1, encoder_layers=1)).train()
    output = model(torch.randn(2, 3, 64, 64))
    text = torch.nn.functional.normalize(torch.randn(4, 16), dim=-1)
    loss = sum(
        class_logits(layer.query_embeddings, layer.no_object_logits, text).logsumexp(-1).mean()
        + layer.mask_logits.square().mean()
        for layer in output.layers
    )
    loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_frozen_statistics_are_constants_and_batch_statistics_are_learnt():
    frozen = ZegFormer(replace(SMALL, backbone=replace(SMALL.backbone, norm="frozen")))
    trained = ZegFormer(SMALL)
    assert not any(".bn" in name for name, _ in frozen.named_parameters())
    assert any(".bn" in name for name, _ in trained.named_parameters())
    before = trained.backbone.bn1.running_mean.clone()
    trained.train()(torch.randn(2, 3, 64, 64))
    assert not torch.equal(before, trained.backbone.bn1.running_mean)


def test_frozen_and_batch_norm_agree_at_inference():
    torch.manual_seed(0)
    trained = ZegFormer(SMALL)
    trained.train()(torch.randn(2, 3, 64, 64))
    frozen = ZegFormer(replace(SMALL, backbone=replace(SMALL.backbone, norm="frozen"))).eval()
    state = {key: value for key, value in trained.state_dict().items() if not key.endswith("num_batches_tracked")}
    frozen.load_state_dict(state)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        first, second = trained.eval()(images), frozen(images)
    torch.testing.assert_close(first.layers[-1].mask_logits, second.layers[-1].mask_logits, atol=1e-4, rtol=1e-4)


# Shares of mask pixels on the same side as in float32, measured: bfloat16 0.934 and 0.962, float16 0.986 and 0.993;
# lowest cosines of query embeddings: 0.976 and 0.999. Random weights make logits far less certain than trained ones.
@pytest.mark.parametrize(
    ("dtype", "least_agreement", "least_cosine"), [("bfloat16", 0.9, 0.95), ("float16", 0.98, 0.998)]
)
@pytest.mark.parametrize("image", ["A", "B"])
def test_the_whole_network_runs_in_half_precision(
    golden_path, golden, outputs, image, dtype, least_agreement, least_cosine
):
    kind = getattr(torch, dtype)
    half = load_zegformer(golden_path / "zegformer_tiny.pth").to(kind)
    pixels = normalise(golden("common")[f"{image}_image_uint8_chw"].transpose(1, 2, 0))
    with torch.inference_mode():
        output = half(pad_to_multiple([pixels]).to(kind)).layers[-1]
    expected = outputs[image].layers[-1]
    assert output.mask_logits.dtype == kind
    same_side = (output.mask_logits > 0) == (expected.mask_logits > 0)
    assert same_side.float().mean() >= least_agreement
    assert (output.query_embeddings.float() * expected.query_embeddings).sum(-1).min() >= least_cosine


def test_it_trains_under_bfloat16_autocast():
    torch.manual_seed(0)
    model = ZegFormer(replace(SMALL, masked_attention=True)).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 3, 64, 64))
    loss = output.layers[-1].mask_logits.float().square().mean() + output.layers[-1].query_embeddings.float().sum()
    loss.backward()
    assert model.backbone.conv1.weight.grad.isfinite().all()
    assert model.backbone.conv1.weight.grad.abs().max() > 0


@pytest.mark.parametrize("depth", [50, 101])
def test_the_released_sizes_run_at_640_pixels(depth):
    torch.manual_seed(0)
    model = ZegFormer(ZegFormerConfig(backbone=BackboneConfig.resnet(depth))).eval()
    with torch.inference_mode():
        output = model(torch.randn(1, 3, 640, 640), every_layer=False)
    assert output.features["res5"].shape == (1, 2048, 20, 20)
    assert output.layers[-1].mask_logits.shape == (1, 100, 160, 160)
    assert output.layers[-1].query_embeddings.shape == (1, 100, 512)
    for classes in (171, 847):
        text = torch.nn.functional.normalize(torch.randn(classes, 512), dim=-1)
        logits = class_logits(output.layers[-1].query_embeddings, output.layers[-1].no_object_logits, text)
        assert logits.shape == (1, 100, classes + 1)
        assert logits.isfinite().all()
    assert output.layers[-1].mask_logits.isfinite().all()
