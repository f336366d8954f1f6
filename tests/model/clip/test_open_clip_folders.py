"""CLIPs as open_clip publishes them: any tower, each with its own normalisation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from maskmill.model.clip.clip import Clip
from maskmill.model.clip.input import ClipInput
from maskmill.model.clip.loading import load_clip, new_clip, save_clip
from maskmill.model.clip.text import text_features
from maskmill.model.errors import CheckpointError
from maskmill.model.images.preprocess import normalise
from maskmill.model.naming.classifier import Classifier
from maskmill.model.naming.settings import NamingSettings
from maskmill.model.proposals import Proposals
from maskmill.model.vocabulary import Vocabulary
from tests.model.tiny_clips import CONVNEXT, HALVES, MAP_POOLED, OPENAI_INPUT, VIT, save_open_clip

KINDS = {"convnext": (CONVNEXT, OPENAI_INPUT), "vit": (VIT, OPENAI_INPUT), "map": (MAP_POOLED, HALVES)}
CLASSES = ["cat, kitten", "dog", "grass"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Clip]:
    root = tmp_path_factory.mktemp("clips")
    return {kind: load_clip(save_open_clip(root / kind, *given)) for kind, given in KINDS.items()}


def proposals(size: tuple[int, int] = (64, 96)) -> Proposals:
    """Three masks: the left half, the right half, and a corner smaller than a cell of the tower's features."""
    masks = torch.full((3, size[0] // 4, size[1] // 4), -6.0)
    masks[0, :, : masks.shape[2] // 2] = 6
    masks[1, :, masks.shape[2] // 2 :] = 6
    masks[2, :2, :2] = 6
    return Proposals(mask_logits=masks, query_embeddings=None, no_object_logits=None, image_size=size, padded_size=size)


def picture(size: tuple[int, int] = (64, 96)) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_the_model_that_open_clip_loads(clips: dict[str, Clip], kind: str, tmp_path: Path) -> None:
    folder = save_open_clip(tmp_path / kind, *KINDS[kind])
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    images = torch.randn(2, 3, clips[kind].image_size, clips[kind].image_size)
    with torch.inference_mode():
        torch.testing.assert_close(clips[kind].encode_image(images), theirs.encode_image(images), rtol=0, atol=1e-5)
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a photo of a cat"])
        expected = theirs.encode_text(tokens)
    torch.testing.assert_close(clips[kind].encode_text(["a photo of a cat"]), expected, rtol=0, atol=1e-5)


def test_every_clip_carries_its_own_normalisation(clips: dict[str, Clip]) -> None:
    assert (clips["vit"].input.mean, clips["vit"].input.std) == (ClipInput().mean, ClipInput().std)
    assert clips["vit"].input.interpolation == "bicubic"
    assert clips["map"].input == ClipInput(mean=(127.5,) * 3, std=(127.5,) * 3)


@pytest.mark.parametrize("kind", KINDS)
def test_sub_images_are_normalised_as_the_tower_was_trained(
    clips: dict[str, Clip], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = Classifier(clips[kind], Vocabulary(CLASSES), NamingSettings(region="crop", fusion="clip"))
    seen: list[torch.Tensor] = []
    encode = classifier.encoder.encode
    monkeypatch.setattr(classifier.encoder, "encode", lambda images: seen.append(images) or encode(images))
    whole = Proposals(
        mask_logits=torch.full((1, 16, 16), 6.0),
        query_embeddings=None,
        no_object_logits=None,
        image_size=(64, 64),
        padded_size=(64, 64),
    )
    grey = np.full((64, 64, 3), (10, 100, 200), np.uint8)
    classifier([grey], [whole])
    expected = normalise(grey, clips[kind].input.mean, clips[kind].input.std)[:, 0, 0]
    torch.testing.assert_close(seen[0][0][:, 5, 5], expected)


def test_pooling_by_binary_masks_is_a_mean_over_cells(clips: dict[str, Clip]) -> None:
    clip = clips["convnext"]
    settings = NamingSettings(region="pool", fusion="clip", pool_mask="binary", attend_side=64)
    classifier = Classifier(clip, Vocabulary(CLASSES), settings)
    image = picture()
    pixels = normalise(image, clip.input.mean, clip.input.std)
    own = classifier.encoder.pool(pixels, proposals().mask_logits.sigmoid(), short_side=64, binary=True)
    trunk = clip.model.visual.trunk
    with torch.inference_mode():
        features = trunk.forward_features(pixels[None])
        rows, columns = features.shape[-2:]
        assert (rows, columns) == (2, 3)
        # The middle column of cells is half left, half right; at its centre the left mask ends.
        inside = F.interpolate(proposals().mask_logits[None].sigmoid(), (2, 3), mode="bilinear")[0] > 0.5
        assert inside[0].sum() + inside[1].sum() in (4, 6, 8)
        assert not inside[2].any()
        for mask in (0, 1):
            pooled = features[0][:, inside[mask]].mean(dim=1)
            by_hand = clip.model.visual.head(trunk.forward_head(pooled[None, :, None, None]))
            torch.testing.assert_close(own[mask], by_hand[0], rtol=0, atol=1e-5)
        soft = classifier.encoder.pool(pixels, proposals().mask_logits.sigmoid(), short_side=64)
        torch.testing.assert_close(own[2], soft[2])  # too small for a cell of its own


def test_synonyms_compete_or_are_averaged(clips: dict[str, Clip]) -> None:
    vocabulary = Vocabulary(CLASSES)
    scores = {}
    for synonyms in ("mean", "max"):
        settings = NamingSettings(
            region="pool", fusion="clip", synonyms=synonyms, image_prompts="vild-14", attend_side=64
        )
        classifier = Classifier(clips["convnext"], vocabulary, settings)
        [scores[synonyms]] = classifier([picture()], [proposals()])
    clip = clips["convnext"]
    from maskmill.model.clip.prompts import VILD

    texts = text_features(clip, Vocabulary(["cat", "kitten", "dog", "grass"]), VILD)
    classifier = Classifier(clip, vocabulary, NamingSettings(region="pool", fusion="clip", attend_side=64))
    pixels = normalise(picture(), clip.input.mean, clip.input.std)
    features = F.normalize(classifier.encoder.pool(pixels, proposals().mask_logits.sigmoid(), short_side=64), dim=-1)
    logits = clip.logit_scale * features @ texts.T
    best = torch.stack((logits[:, :2].amax(dim=1), logits[:, 2], logits[:, 3]), dim=1).softmax(dim=1)
    np.testing.assert_allclose(scores["max"].query_scores, best.numpy(), atol=1e-5)
    assert np.abs(scores["max"].query_scores - scores["mean"].query_scores).max() > 1e-6


def test_a_sources_own_probabilities_enter_where_it_knows_the_class(clips: dict[str, Clip]) -> None:
    from dataclasses import replace

    settings = NamingSettings(region="pool", fusion="vocabulary", attend_side=64)
    known = torch.tensor([[0.9, 0.05], [0.05, 0.9], [0.0, 0.0]])
    own = replace(proposals(), class_probabilities=known, objectness=torch.tensor([0.95, 0.95, 0.1]))
    with_names = Classifier(clips["convnext"], Vocabulary(CLASSES), settings, source_names=("kittens", "dog"))
    [fused] = with_names([picture()], [own])
    [alone] = Classifier(clips["convnext"], Vocabulary(CLASSES), settings)([picture()], [own])
    assert fused.query_scores[:2, :2].argmax(axis=1).tolist() == [0, 1]
    assert fused.query_scores[0, 0] > alone.query_scores[0, 0]
    # Scores of a mask are shares of its objectness.
    np.testing.assert_allclose(fused.query_scores.sum(axis=1), [0.95, 0.95, 0.1], atol=1e-5)
    np.testing.assert_allclose(alone.query_scores.sum(axis=1), [0.95, 0.95, 0.1], atol=1e-5)


def test_attend_is_refused_where_the_tower_pools_by_attention(clips: dict[str, Clip]) -> None:
    with pytest.raises(ValueError, match="'attend' needs"):
        Classifier(clips["map"], Vocabulary(CLASSES), NamingSettings(region="attend", fusion="clip"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_cfg": None}, "open_clip_config.json is damaged"),
        ({"model_cfg": {**VIT, "multimodal_cfg": {}}}, "captioning models are not supported"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    save_open_clip(tmp_path, VIT, OPENAI_INPUT)
    description = {**json.loads((tmp_path / "open_clip_config.json").read_text()), **change}
    if change["model_cfg"] is None:
        del description["model_cfg"]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=message):
        load_clip(tmp_path)


def test_a_folder_with_pickles_only_is_refused(tmp_path: Path) -> None:
    save_open_clip(tmp_path, VIT, OPENAI_INPUT)
    (tmp_path / "open_clip_model.safetensors").rename(tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_clip(tmp_path)


def test_our_own_folders_keep_the_normalisation(tmp_path: Path) -> None:
    from dataclasses import replace

    plain = new_clip(VIT)
    save_clip(plain, tmp_path / "plain")
    assert "input" not in json.loads((tmp_path / "plain" / "clip.json").read_text())
    assert load_clip(tmp_path / "plain").input == ClipInput()
    own = ClipInput(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), interpolation="bicubic")
    save_clip(replace(plain, input=own), tmp_path / "own")
    assert load_clip(tmp_path / "own").input == own
