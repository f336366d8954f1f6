from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.model.clip.loading import load_clip
from maskmill.model.naming.scoring import FUSIONS, calibration_offsets, clip_probabilities, fuse, query_probabilities

Golden = Callable[[str], dict[str, np.ndarray]]

SEEN = torch.tensor([True, True, True, False, False, True, True, False])
"""person, traffic light, sofa, grass, tree, playing-field, sky, cow."""


def logit_scale(golden_path: Path) -> float:
    return load_clip(golden_path / "clip_tiny_openai.pt").logit_scale


def clip_branch(golden: Golden, features: np.ndarray, logits: np.ndarray, golden_path: Path) -> Tensor:
    text = torch.from_numpy(golden("text_features")["clip_branch__text_features_test"])
    no_object = torch.from_numpy(logits[0, :, -1])
    return clip_probabilities(torch.from_numpy(features), no_object, text, logit_scale(golden_path))


@pytest.mark.parametrize("image_name", ["A", "B"])
@pytest.mark.parametrize(
    ("prompts", "region"), [("single", "crop"), ("single", "cropmask"), ("imagenet_select", "cropmask")]
)
def test_ensembling_equals_the_release(
    golden: Golden, golden_path: Path, prompts: str, region: str, image_name: str
) -> None:
    common = golden("common")
    features = golden(f"clip__{region}")[f"{image_name}_image_features_raw"]
    query_scores = torch.from_numpy(common[f"{image_name}_pred_logits_{prompts}"][0]).softmax(-1)[:, :-1]
    # The image branch borrows the no-object logit, which does not depend on the prompts.
    clip_scores = clip_branch(golden, features, common[f"{image_name}_pred_logits_single"], golden_path)
    fused = fuse(query_scores, clip_scores, SEEN, "ensembling")
    expected = golden(f"infer__{prompts}__{region}__ensembling")[f"{image_name}_class_scores"]
    # 7e-7 measured.
    np.testing.assert_allclose(fused.numpy(), expected, atol=5e-6)


@pytest.mark.parametrize("region", ["crop", "mask", "cropmask"])
def test_image_branch_equals_the_release(golden: Golden, golden_path: Path, region: str) -> None:
    expected = golden("boxes_synthetic")
    features = expected[f"{region}_image_features_raw"]
    probabilities = clip_branch(golden, features, expected["pred_logits"], golden_path)
    reference = torch.from_numpy(expected[f"{region}_class_scores"]).softmax(-1)[:, :-1]
    np.testing.assert_allclose(probabilities.numpy(), reference.numpy(), atol=5e-6)


def test_query_branch_from_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings, text = (F.normalize(torch.randn(n, 16, generator=generator), dim=-1) for n in (5, 3))
    no_object = torch.randn(5, generator=generator)
    logits = torch.cat((100 * embeddings @ text.T, no_object[:, None]), dim=1)
    expected = logits.softmax(dim=1)[:, :3]
    torch.testing.assert_close(query_probabilities(embeddings, no_object, text), expected)


def test_every_fusion_by_hand() -> None:
    query, clip = torch.tensor([[0.4, 0.1, 0.3]]), torch.tensor([[0.2, 0.6, 0.1]])
    seen = torch.tensor([True, False, True])
    third = 1 / 3
    expected = {
        "ensembling": [
            0.4 ** (2 * third) * 0.15**third,
            0.1**third * 0.6 ** (2 * third),
            0.3 ** (2 * third) * 0.15**third,
        ],
        "ensembling-all": [
            0.4**third * 0.2 ** (2 * third),
            0.1**third * 0.6 ** (2 * third),
            0.3**third * 0.1 ** (2 * third),
        ],
        "clip": [0.2, 0.6, 0.1],
        "query": [0.4, 0.1, 0.3],
        "vocabulary": [
            0.2,
            0.6,
            0.1,
        ],  # where the source has no names; tests/model/naming/test_source_names.py has the rest
    }
    assert set(expected) == set(FUSIONS)
    for fusion, scores in expected.items():
        torch.testing.assert_close(fuse(query, clip, seen, fusion), torch.tensor([scores]))


def test_ensembling_without_a_seen_class_trusts_clip_everywhere() -> None:
    query, clip = torch.rand(4, 3), torch.rand(4, 3)
    seen = torch.zeros(3, dtype=torch.bool)
    assert torch.equal(fuse(query, clip, seen, "ensembling"), fuse(query, clip, seen, "ensembling-all"))


def test_proposals_without_a_query_branch_need_clip() -> None:
    probabilities = clip_probabilities(torch.rand(2, 4), None, F.normalize(torch.rand(3, 4), dim=-1), 10.0)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
    seen = torch.ones(3, dtype=torch.bool)
    assert torch.equal(fuse(None, probabilities, seen, "clip"), probabilities)
    with pytest.raises(ValueError, match="needs proposals with query embeddings"):
        fuse(None, probabilities, seen, "ensembling")
    with pytest.raises(ValueError, match="needs the image branch"):
        fuse(probabilities, None, seen, "ensembling")


def test_unknown_fusion_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="ensembling, ensembling-all, clip, query"):
        fuse(torch.rand(1, 3), torch.rand(1, 3), torch.ones(3, dtype=torch.bool), "mean")


def test_calibration_is_for_seen_classes() -> None:
    assert calibration_offsets(torch.tensor([True, False]), 0.25).tolist() == [0.25, 0.0]
