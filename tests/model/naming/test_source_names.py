"""Names that mean the same, and the fusion of a source's own probabilities with CLIP's."""

from __future__ import annotations

import pytest
import torch

from maskmill.model.naming.source_names import SYNONYMS, _synonyms, folded, fuse_with_source, matches
from maskmill.model.vocabulary import Vocabulary

COCO = tuple(_synonyms())


@pytest.mark.parametrize(
    "name, expected",
    [
        ("Traffic-Lights", "traffic light"),
        ("buses", "bus"),
        ("people", "person"),
        ("wine  glasses", "wine glass"),
        ("grass", "grass"),
        ("puppies", "puppy"),
        ("bus", "bus"),
        ("skis", "skis"),
        ("bananas", "banana"),
        ("", ""),
    ],
)
def test_folding(name: str, expected: str) -> None:
    assert folded(name) == expected


def test_there_are_133_names_and_no_word_stands_for_two() -> None:
    assert len(COCO) == 133
    words = [word for name in COCO for word in {folded(word) for word in (name, *_synonyms()[name])}]
    repeated = {word for word in words if words.count(word) > 1}
    assert not repeated, f"{SYNONYMS.name} gives these words to two names: {repeated}"


def test_classes_meet_the_sources_names_by_synonym_case_and_plural() -> None:
    vocabulary = Vocabulary(["Sofas", "tv monitor", "playing-field, pitch", "unicorn", "Tree", "wall"])
    found = matches(vocabulary, COCO)
    assert found.shape == (6, 133)
    named = [[COCO[k] for k in row.nonzero()[:, 0]] for row in found]
    assert named == [["couch"], ["tv"], ["playingfield"], [], ["tree-merged"], ["wall-other-merged"]]


def test_a_class_of_several_source_names() -> None:
    found = matches(Vocabulary(["vehicle, car, bus, truck", "car seat"]), ("car", "bus", "cat"))
    assert found.tolist() == [[True, True, False], [False, False, False]]


def test_fusion_by_hand_on_three_masks() -> None:
    """Class 0 is the source's names 0 and 1, class 1 its name 2, class 2 none."""
    matching = torch.tensor([[True, True, False], [False, False, True], [False, False, False]])
    source = torch.tensor([[0.3, 0.1, 0.4], [0.0, 0.0, 0.5], [0.1, 0.1, 0.0]])  # the rest to 1 is "no object"
    clip = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [1 / 3, 1 / 3, 1 / 3]])
    fused = fuse_with_source(source, clip, matching)
    given_object = [(0.5, 0.5), (0.0, 1.0), (1.0, 0.0)]
    for row, (first, second) in enumerate(given_object):
        by_hand = [first**0.6 * clip[row, 0] ** 0.4, second**0.6 * clip[row, 1] ** 0.4, clip[row, 2]]
        expected = torch.stack([torch.as_tensor(value) for value in by_hand])
        torch.testing.assert_close(fused[row], expected / expected.sum())


def test_without_any_match_clip_alone_decides() -> None:
    clip = torch.tensor([[0.7, 0.3], [0.1, 0.9]])
    fused = fuse_with_source(torch.rand(2, 3), clip, torch.zeros(2, 3, dtype=torch.bool))
    torch.testing.assert_close(fused, clip)


def test_a_source_that_sees_no_object_gives_no_nan() -> None:
    fused = fuse_with_source(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.ones(2, 2, dtype=torch.bool))
    assert fused.isfinite().all()
