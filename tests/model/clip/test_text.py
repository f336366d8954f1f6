from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from maskmill.model.clip.clip import Clip
from maskmill.model.clip.loading import load_clip
from maskmill.model.clip.prompts import IMAGE_BRANCH, PROMPT_SETS, SINGLE
from maskmill.model.clip.text import TEXT_BATCH, text_features
from maskmill.model.vocabulary import ClassEntry, Vocabulary

RELEASED_SETS = ("single", "imagenet_select", "imagenet")
Golden = Callable[[str], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def clip(golden_path: Path) -> Clip:
    return load_clip(golden_path / "clip_tiny_openai.pt")


@pytest.mark.parametrize(("classes", "split"), [("class_names", "test"), ("seen_names", "train")])
@pytest.mark.parametrize(
    ("name", "templates"),
    [(name, PROMPT_SETS[name]) for name in RELEASED_SETS] + [("clip_branch", IMAGE_BRANCH)],
    ids=[*RELEASED_SETS, "clip_branch"],
)
def test_features_equal_the_release(
    clip: Clip, golden: Golden, classes: str, split: str, name: str, templates: tuple[str, ...]
) -> None:
    expected = golden("text_features")
    features = text_features(clip, Vocabulary(expected[classes].tolist()), templates)
    # 1.4e-7 measured.
    np.testing.assert_allclose(features.numpy(), expected[f"{name}__text_features_{split}"], atol=2e-6)


def test_sentences_equal_the_release(clip: Clip, golden: Golden) -> None:
    sentences = ClassEntry(name="sofa, couch").sentences(IMAGE_BRANCH)
    ours = {tuple(tokens) for tokens in clip.tokenizer(sentences).tolist()}
    assert ours == {tuple(tokens) for tokens in golden("text_features")["tokens_select_clip_sofa"].tolist()}
    assert len(ours) == 64


def test_long_lists_run_in_batches_with_the_same_result(clip: Clip) -> None:
    names = [f"thing {number}" for number in range(2 * TEXT_BATCH["cpu"] + 3)]
    features = text_features(clip, Vocabulary(names), SINGLE)
    few = [0, TEXT_BATCH["cpu"] - 1, TEXT_BATCH["cpu"], 2 * TEXT_BATCH["cpu"] + 2]
    alone = torch.cat([text_features(clip, Vocabulary([names[index]]), SINGLE) for index in few])
    torch.testing.assert_close(features[few], alone, atol=2e-6, rtol=0)


def test_own_prompts_are_used_instead_of_the_set(clip: Clip) -> None:
    own = text_features(clip, Vocabulary([ClassEntry(name="cow", prompts=("a drawing of a {}",))]), SINGLE)
    torch.testing.assert_close(own, text_features(clip, Vocabulary(["cow"]), ["a drawing of a {}"]))
    assert (own - text_features(clip, Vocabulary(["cow"]), SINGLE)).abs().max() > 1e-3


def test_cache_is_read_where_names_templates_and_clip_are_the_same(clip: Clip, tmp_path: Path) -> None:
    cow = Vocabulary(["cow"])
    first = text_features(clip, cow, SINGLE, tmp_path)
    (path,) = tmp_path.iterdir()
    save_file({key: -tensor for key, tensor in load_file(path).items()}, path)
    assert torch.equal(text_features(clip, Vocabulary(["cow"], seen=["cow"]), SINGLE, tmp_path), -first)
    for vocabulary, templates in ((Vocabulary(["calf"]), SINGLE), (cow, PROMPT_SETS["imagenet_select"])):
        text_features(clip, vocabulary, templates, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_cache_of_other_text_weights_is_not_read(clip: Clip, golden_path: Path, tmp_path: Path) -> None:
    text_features(clip, Vocabulary(["cow"]), SINGLE, tmp_path)
    other = load_clip(golden_path / "clip_tiny_openai.pt")
    other.model.ln_final.bias.data += torch.randn(64, generator=torch.Generator().manual_seed(0))
    changed = text_features(other, Vocabulary(["cow"]), SINGLE, tmp_path)
    torch.testing.assert_close(changed, text_features(other, Vocabulary(["cow"]), SINGLE))


@pytest.mark.parametrize("damage", ["truncated", "wrong shape"])
def test_damaged_cache_is_computed_again_and_reported(
    clip: Clip, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    first = text_features(clip, Vocabulary(["cow"]), SINGLE, tmp_path)
    (path,) = tmp_path.iterdir()
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:50])
    else:
        save_file({"text_features": torch.zeros(2, 512)}, path)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(text_features(clip, Vocabulary(["cow"]), SINGLE, tmp_path), first)
    assert "computed again" in caplog.text
    assert torch.equal(load_file(path)["text_features"], first)


def test_no_template_is_refused(clip: Clip) -> None:
    with pytest.raises(ValueError, match="at least one template"):
        text_features(clip, Vocabulary(["cow"]), [])
