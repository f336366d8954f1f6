"""Whole batches as on a GPU, with CPU tensors: the same results as image by image, in few launches and two waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from maskmill.model.clip.clip import Clip
from maskmill.model.clip.loading import load_clip, new_clip
from maskmill.model.naming.classifier import Classifier
from maskmill.model.naming.settings import NamingSettings
from maskmill.model.networks.device_policy import CPU_POLICY, MOST_MAP_FLOATS, DevicePolicy, gpu_policy, policy_for
from maskmill.model.presets import BUNDLED
from maskmill.model.proposals import Proposals, Segmentation
from maskmill.model.segmenter import Segmenter
from maskmill.model.vocabulary import ClassEntry, Vocabulary
from maskmill.model.zegformer.checkpoint import load_zegformer
from maskmill.model.zegformer.network import ZegFormer
from maskmill.model.zegformer.proposer import Proposer
from maskmill.pipeline.bench.launches import LaunchCounter
from maskmill.pipeline.shapes import CLASSES, draw

MakeSegmenter = Callable[[DevicePolicy, dict[str, Any]], Segmenter]
GPU = gpu_policy(80 * 2**30)
IN_PIECES = replace(GPU, map_floats=2**16, band_pixels=2**16, mask_pixels=2**16)
"""So little memory that maps are made in bands, class by class, and masks are cut a few at a time."""
SETTINGS: dict[str, dict[str, Any]] = {
    "cropmask": {},
    "crop": {"region": "crop"},
    "mask": {"region": "mask"},
    "attend": {"region": "attend"},
    "pool": {"region": "pool"},
    "query": {"fusion": "query"},
    "clip": {"fusion": "clip", "synonyms": "max"},
    "skipping": {"min_objectness": 0.2, "min_area": 50, "min_visible": 32},
    "instances": {"query_segments": True},
    "few instances": {"query_segments": True, "min_visible": 64},
    "masks resized first": {"resize_masks_first": True},
}


@pytest.fixture(scope="module")
def network() -> ZegFormer:
    return load_zegformer(BUNDLED)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(BUNDLED)


@pytest.fixture(scope="module")
def drawn() -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Images of three sizes, and outputs of five."""
    images = [draw(seed=5, index=index)[0] for index in range(6)]
    images[1], images[4] = images[1][:100, :90], images[4][:, :70]
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    sizes[2], sizes[3] = (301, 217), (50, 60)
    return images, sizes


def vocabulary() -> Vocabulary:
    entries = [
        ClassEntry(name=f"{own.name}, drawn {own.name}" if own.seen else own.name, distractor=number == 3)
        for number, own in enumerate(CLASSES)
    ]
    return Vocabulary(entries, seen=[own.seen for own in CLASSES])


@pytest.fixture(scope="module")
def segmenter(network: ZegFormer, clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> MakeSegmenter:
    """Makes segmenters that embed the classes once for all of them, because that takes longer than the images do."""
    embeddings = tmp_path_factory.mktemp("embeddings")

    def make(policy: DevicePolicy, settings: dict[str, Any]) -> Segmenter:
        classifier = Classifier(clip, vocabulary(), NamingSettings(**settings), cache_dir=embeddings, policy=policy)
        return Segmenter(Proposer(network, short_side=128, policy=policy), classifier)

    return make


def assert_alike(results: list[Segmentation], expected: list[Segmentation]) -> None:
    """Numbers within 1e-4 (2e-6 measured), labels and names in 99.99 % of places (all of them measured)."""
    for own, other in zip(results, expected, strict=True):
        for name in (field.name for field in fields(Segmentation)):
            mine, theirs = getattr(own, name), getattr(other, name)
            assert (mine is None) == (theirs is None), name
            if mine is None:
                continue
            assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype), name
            if mine.dtype.kind == "f":
                np.testing.assert_allclose(mine, theirs, atol=1e-4, err_msg=name)
            else:
                assert np.mean(mine == theirs) >= 0.9999, name


@pytest.mark.parametrize("policy", [GPU, IN_PIECES], ids=["whole", "in pieces"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_batch_is_named_as_its_images_are(
    segmenter: MakeSegmenter,
    drawn: tuple[list[np.ndarray], list[tuple[int, int]]],
    settings: str,
    policy: DevicePolicy,
) -> None:
    images, sizes = drawn
    expected = segmenter(CPU_POLICY, SETTINGS[settings])(images, sizes, independent=True)
    results = segmenter(policy, SETTINGS[settings])(images, sizes, independent=True)
    assert_alike(results, expected)


def test_class_scores_can_be_kept(
    segmenter: MakeSegmenter, drawn: tuple[list[np.ndarray], list[tuple[int, int]]]
) -> None:
    images, sizes = drawn
    expected = segmenter(CPU_POLICY, {})(images, sizes, keep_scores=True, independent=True)
    assert expected[0].semantic_scores is not None
    assert_alike(segmenter(GPU, {})(images, sizes, keep_scores=True, independent=True), expected)


def test_images_without_any_mask_and_single_queries(segmenter: MakeSegmenter) -> None:
    """Nothing for CLIP to see in the whole batch, and a source that has no query branch."""
    images = [draw(seed=5, index=index)[0] for index in range(2)]
    for region in ("cropmask", "crop"):
        segmenters = [segmenter(own, {"region": region, "fusion": "clip"}) for own in (CPU_POLICY, GPU)]
        proposals = [
            Proposals(
                mask_logits=torch.full((1, 32, 32), -1.0),
                query_embeddings=None,
                no_object_logits=None,
                objectness=torch.tensor([0.4]),
                image_size=(128, 128),
                padded_size=(128, 128),
            )
            for _ in images
        ]
        expected, results = (own.classifier(images, proposals, independent=True) for own in segmenters)
        assert_alike(results, expected)


def test_the_policy_follows_the_device_and_its_free_memory() -> None:
    assert policy_for(torch.device("cpu")) == CPU_POLICY
    small, large = gpu_policy(4 * 2**30), gpu_policy(80 * 2**30)
    assert small.batched
    assert small.map_floats * 4 <= 4 * 2**30 / 24
    assert small.map_floats < large.map_floats == MOST_MAP_FLOATS
    assert gpu_policy(0).map_floats * 4 == 64 * 2**20  # of a device so full that it fails, it is said by PyTorch


# The sizes of R-50, ViT-B/16 and 171 classes, with a CLIP that is small inside and no segmentation network at all.
QUERIES, NON_EMPTY, CLASS_COUNT, BATCH = 100, 30, 171, 16


@pytest.fixture(scope="module")
def real_sizes() -> Clip:
    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {"image_size": 224, "layers": 1, "width": 32, "head_width": 16, "patch_size": 32}
    clip = new_clip({"embed_dim": 512, "text_cfg": text, "vision_cfg": vision, "quick_gelu": True})
    clip.model.eval().requires_grad_(False)
    return clip


def made_up(count: int, side: int) -> tuple[list[np.ndarray], list[Proposals]]:
    generator = torch.Generator().manual_seed(0)
    images, proposals = [], []
    for number in range(count):
        images.append(np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8))
        coarse = torch.randn(1, QUERIES, 8, 8, generator=generator) * 4 - 4
        masks = F.interpolate(coarse, (side // 4, side // 4), mode="bicubic")[0]
        masks[NON_EMPTY:] = -1 - masks[NON_EMPTY:].abs()
        proposals.append(
            Proposals(
                mask_logits=masks,
                query_embeddings=F.normalize(torch.randn(QUERIES, 512, generator=generator), dim=-1),
                no_object_logits=torch.randn(QUERIES, generator=generator),
                image_size=(side, side),
                padded_size=(side, side),
            )
        )
    return images, proposals


def counted(
    clip: Clip, side: int, sizes: list[tuple[int, int]]
) -> tuple[LaunchCounter, list[Segmentation], list[Segmentation]]:
    """Launches and waits of a batch of square images, its results, and those of its first image alone on a CPU."""
    entries = [ClassEntry(name=f"thing {number}", prompts=("a {}.",)) for number in range(CLASS_COUNT)]
    classes = Vocabulary(entries, seen=[number % 10 > 0 for number in range(CLASS_COUNT)])
    images, proposals = made_up(len(sizes), side)
    classifier = Classifier(clip, classes, policy=GPU)
    classifier(images[:1], proposals[:1], sizes[:1])  # what is made once: an empty mask's embedding, constants
    counter = LaunchCounter()
    counter.exclude(classifier.encoder, "_embed")
    counter.watch(classifier.way, "_label_maps", "map")
    with counter:
        results = classifier(images, proposals, sizes, independent=True)
    expected = Classifier(clip, classes, policy=CPU_POLICY)(images[:1], proposals[:1], sizes[:1], independent=True)
    return counter, results, expected


@pytest.mark.parametrize("side", [160, pytest.param(640, marks=pytest.mark.slow)])
def test_a_batch_takes_few_launches_and_two_waits(real_sizes: Clip, side: int) -> None:
    counter, results, expected = counted(real_sizes, side, [(side, side)] * BATCH)
    assert sum(counter.launches.values()) <= 60 * BATCH  # 127 measured
    assert counter.launches["map"] <= 8 * BATCH
    assert dict(counter.waits) == {"Transfers.fetch": 2}
    assert_alike(results[:1], expected)


@pytest.mark.parametrize(
    ("side", "output"), [(160, (270, 480)), pytest.param(640, (1080, 1920), marks=pytest.mark.slow)]
)
def test_a_larger_output_takes_hardly_more_launches(real_sizes: Clip, side: int, output: tuple[int, int]) -> None:
    counter, results, expected = counted(real_sizes, side, [output] * 2)
    assert counter.launches["map"] <= 8 * 2
    assert dict(counter.waits) == {"Transfers.fetch": 2}
    assert_alike(results[:1], expected)


def test_outputs_of_different_sizes_keep_to_the_launches(real_sizes: Clip) -> None:
    counter, _, _ = counted(real_sizes, 160, [(160 + 8 * number, 160) for number in range(BATCH)])
    assert counter.launches["map"] <= 8 * BATCH
    assert sum(counter.launches.values()) <= 60 * BATCH
    assert dict(counter.waits) == {"Transfers.fetch": 2}


def test_the_proposing_half_takes_few_launches(network: ZegFormer) -> None:
    images = [draw(seed=5, index=index)[0] for index in range(BATCH)]
    images[3] = images[3][:100, :90]
    proposer = Proposer(network, short_side=128, policy=GPU)
    proposer(images, independent=True)
    counter = LaunchCounter()
    counter.exclude(proposer, "_forward")
    with counter:
        together = proposer(images, independent=True)
    assert sum(counter.launches.values()) <= BATCH
    assert not counter.waits
    alone = Proposer(network, short_side=128, policy=CPU_POLICY)(images, independent=True)
    for own, other in zip(together, alone, strict=True):
        assert (own.image_size, own.padded_size) == (other.image_size, other.padded_size)
        # 2e-5 measured, of logits up to 40.
        torch.testing.assert_close(own.mask_logits, other.mask_logits, atol=1e-3, rtol=0)


def test_what_waits_is_counted() -> None:
    values = torch.arange(4.0)
    with LaunchCounter() as counter, torch.inference_mode():
        assert int(values[2]) == 2
        assert len(values.nonzero()) == 3
        assert len(values[values > 1]) == 2
        values.cpu()
        torch.tensor([1.0])
        values.view(2, 2)
    assert sum(counter.waits.values()) == 5
    assert counter.launches == {"other": 5}  # a comparison, an index, a search and two reads
