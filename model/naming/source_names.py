"""A proposal source's own class names and the user's: which of them mean the same, and what the source says of those.

Legend for shapes: Q queries, C classes of the vocabulary, K names of the source.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from maskmill.model.vocabulary import Vocabulary

SYNONYMS = Path(__file__).parent / "coco_panoptic_names.json"
"""The 133 names of COCO panoptic, as its checkpoints spell them, each with other words for the same thing."""

CLIP_WEIGHT = 0.4
"""Alpha: the exponent of CLIP's probability where a class has names of the source (FC-CLIP's value for names its own
head was trained with; arXiv 2308.02487, section 3.4)."""

_IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "knives": "knife",
    "shelves": "shelf",
    "calves": "calf",
    "mice": "mouse",
}
_ALREADY_SINGULAR = ("ss", "us", "is")


def folded(name: str) -> str:
    """Return a name without case, hyphens, doubled spaces and the plural of its last word."""
    words = name.lower().replace("-", " ").replace("_", " ").split()
    if not words:
        return ""
    return " ".join([*words[:-1], _singular(words[-1])])


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(_ALREADY_SINGULAR):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ses", "xes", "ches", "shes", "zes")):
        return word[:-2]
    return word[:-1]


@cache
def _synonyms() -> dict[str, tuple[str, ...]]:
    return {name: tuple(others) for name, others in json.loads(SYNONYMS.read_text()).items()}


def matches(vocabulary: Vocabulary, source_names: Sequence[str]) -> Tensor:
    """Return (C, K) bool, whether a name or synonym of the class is a name of the source or a synonym of it."""
    known = _synonyms()
    of_source = [_all_folded([name, *known.get(name, ())]) for name in source_names]
    of_classes = [_all_folded(entry.names) for entry in vocabulary]
    return torch.tensor([[not mine.isdisjoint(own) for own in of_source] for mine in of_classes], dtype=torch.bool)


def _all_folded(names: Iterable[str]) -> set[str]:
    return {folded(name) for name in names}


def fuse_with_source(
    class_probabilities: Tensor, clip_scores: Tensor, matching: Tensor, clip_weight: float = CLIP_WEIGHT
) -> Tensor:
    """Return (Q, C) probabilities: the source's and CLIP's where the source knows the class, CLIP's elsewhere.

    A class that the source knows gets source^(1 - clip_weight) * clip^clip_weight, where the source's probability is
    that of all its names that mean the class, given that there is an object at all. Rows are then scaled to sum to 1.

    class_probabilities: (Q, K). clip_scores: (Q, C). matching: (C, K) bool.
    """
    given_object = class_probabilities / class_probabilities.sum(dim=1, keepdim=True).clamp(min=1e-6)
    source_scores = given_object @ matching.to(given_object.dtype).T
    both = source_scores ** (1 - clip_weight) * clip_scores**clip_weight
    fused = torch.where(matching.any(dim=1), both, clip_scores)
    return fused / fused.sum(dim=1, keepdim=True).clamp(min=1e-12)
