"""Measures how good the masks are before they are named, and how well CLIP names regions.

Legend for shapes: N regions, C classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.model.clip.clip import Clip
from maskmill.model.clip.prompts import IMAGE_BRANCH, SINGLE
from maskmill.model.clip.text import text_features
from maskmill.model.naming.regions import region_images
from maskmill.model.naming.scoring import query_probabilities
from maskmill.model.proposals import Proposals
from maskmill.model.vocabulary import Vocabulary
from maskmill.model.zegformer.checkpoint import load_zegformer
from maskmill.model.zegformer.proposer import Proposer
from maskmill.pipeline.training.bundled import SHORT_SIDE
from maskmill.pipeline.training.crops import padded_pixels
from maskmill.pipeline.training.predicted_masks import true_classes

Pairs = Sequence[tuple[np.ndarray, np.ndarray]]
"""Pairs of an image (H, W, 3) uint8 and its label map (H, W) int64."""

SHOWN = ("crop", "mask", "cropmask")
LEAST_OBJECTNESS = 0.5
"""Segments whose probability of being an object is lower than this in the query branch are not named."""

PHRASINGS = {
    "trained phrase": "green circle",
    "other order": "circle, green",
    "sentence": "circle that is green",
    "unknown noun": "green disc",
    "unknown adjective": "emerald circle",
}
"""Ways to phrase a class name, with an example; the last two use words that CLIP was not trained on."""
_NOUNS = {
    "circle": "disc",
    "square": "box",
    "triangle": "wedge",
    "star": "asterisk",
    "cross": "plus",
    "ring": "hoop",
    "heart": "valentine",
    "moon": "crescent",
}
_ADJECTIVES = {
    "red": "crimson",
    "yellow": "golden",
    "green": "emerald",
    "blue": "navy",
    "purple": "violet",
    "white": "ivory",
}


@torch.inference_mode()
def measure_regions(
    grouping: Path, clip: Clip, vocabulary: Vocabulary, pairs: Pairs
) -> dict[str, dict[str, dict[str, float]]]:
    """Return recall at IoU 0.5 and mean best IoU of the masks, and CLIP's top-1 by region mode.

    "masks": {"seen" or "unseen": {"recall", "iou"}} over the class regions of the ground truth, each with its best
    mask. "top1": {mode: {"predicted", "true"}} over predicted masks that are mostly of one class, and over true masks.
    """
    propose = Proposer(load_zegformer(grouping), short_side=SHORT_SIDE)
    text, query_text = (text_features(clip, vocabulary, templates) for templates in (IMAGE_BRANCH, SINGLE))
    best: dict[str, list[float]] = {"seen": [], "unseen": []}
    right = {mode: {"predicted": [0, 0], "true": [0, 0]} for mode in SHOWN}
    for image, label in pairs:
        resized = propose.input_size.resize(image)
        proposals = propose([resized], independent=True)[0]
        inside = _masks(proposals, (label.shape[0], label.shape[1]))
        for class_id in np.unique(label).tolist():
            kind = "seen" if vocabulary.seen_flags[class_id] else "unseen"
            best[kind].append(_best_iou(inside, torch.from_numpy(label == class_id)))
        pixels = padded_pixels(image, SHORT_SIDE)
        true_ids, true_logits = _true_masks(label, (pixels.shape[1], pixels.shape[2]), resized.shape[:2])
        classes = true_classes(inside, label, ignore=-1)
        named = (classes >= 0) & _is_object(proposals, query_text)
        for mode in SHOWN:
            _add(right[mode]["true"], clip, text, pixels, true_logits, true_ids, mode)
            _add(right[mode]["predicted"], clip, text, pixels, proposals.mask_logits[named], classes[named], mode)
    return {
        "masks": {
            kind: {"recall": float(np.mean(np.array(values) > 0.5)), "iou": float(np.mean(values))}
            for kind, values in best.items()
        },
        "top1": {
            mode: {kind: hits / max(total, 1) for kind, (hits, total) in counts.items()}
            for mode, counts in right.items()
        },
    }


@torch.inference_mode()
def measure_phrases(clip: Clip, vocabulary: Vocabulary, pairs: Pairs) -> dict[str, float]:
    """Return CLIP's top-1 on true regions of things, among the names of things, for every way to phrase the names."""
    things = [class_id for class_id, name in enumerate(vocabulary.names) if name.partition(" ")[2] in _NOUNS]
    texts = {
        way: text_features(clip, Vocabulary([_phrase(vocabulary.names[i], way) for i in things]), IMAGE_BRANCH)
        for way in PHRASINGS
    }
    hits, total = dict.fromkeys(PHRASINGS, 0), 0
    for image, label in pairs:
        pixels = padded_pixels(image, SHORT_SIDE)
        scale = SHORT_SIDE / min(image.shape[:2])
        resized = (round(image.shape[0] * scale), round(image.shape[1] * scale))
        ids, logits = _true_masks(label, (pixels.shape[1], pixels.shape[2]), resized)
        asked = torch.isin(ids, torch.tensor(things))
        if not asked.any():
            continue
        shown = region_images(pixels, logits[asked], "cropmask", clip.image_size)
        features = clip.encode_image(shown.images[shown.image_index])
        expected = torch.tensor([things.index(class_id) for class_id in ids[asked].tolist()])
        total += len(expected)
        for way, text in texts.items():
            hits[way] += int(((features @ text.T).argmax(1) == expected).sum())
    return {way: count / max(total, 1) for way, count in hits.items()}


def _phrase(name: str, way: str) -> str:
    colour, _, shape = name.partition(" ")
    return {
        "trained phrase": name,
        "other order": f"{shape} {colour}",
        "sentence": f"{shape} that is {colour}",
        "unknown noun": f"{colour} {_NOUNS[shape]}",
        "unknown adjective": f"{_ADJECTIVES[colour]} {shape}",
    }[way]


def _masks(proposals: Proposals, size: tuple[int, int]) -> Tensor:
    """Return the (Q, H, W) bool masks of an image at ``size``."""
    height, width = proposals.image_size
    padded = F.interpolate(proposals.mask_logits[None], size=proposals.padded_size, mode="bilinear")
    return F.interpolate(padded[..., :height, :width], size=size, mode="bilinear")[0] > 0


def _best_iou(masks: Tensor, truth: Tensor) -> float:
    both, either = (masks & truth).flatten(1).sum(1), (masks | truth).flatten(1).sum(1)
    return float((both / either.clamp(min=1)).max())


def _true_masks(label: np.ndarray, padded: tuple[int, int], resized: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return (N,) class ids and (N, H, W) logits of the ground truth at padded size."""
    ids = torch.from_numpy(np.unique(label))
    masks = (torch.from_numpy(label)[None] == ids[:, None, None]).float()
    fitted = F.interpolate(masks[None], size=(resized[0], resized[1]), mode="nearest")[0]
    missing = (0, padded[1] - resized[1], 0, padded[0] - resized[0])
    return ids, F.pad(fitted, missing) * 2 - 1


def _is_object(proposals: Proposals, text: Tensor) -> Tensor:
    """Return (Q,) bool: segments that the query branch takes for objects. text: (C, D) for the query branch."""
    assert proposals.query_embeddings is not None
    assert proposals.no_object_logits is not None
    shares = query_probabilities(proposals.query_embeddings, proposals.no_object_logits, text)
    return shares.sum(dim=1) >= LEAST_OBJECTNESS


def _add(
    count: list[int], clip: Clip, text: Tensor, pixels: Tensor, logits: Tensor, expected: Tensor, mode: str
) -> None:
    """Add to ``count`` the number of regions that CLIP names right, and the number of all regions."""
    if len(expected) == 0:
        return
    shown = region_images(pixels, logits, mode, clip.image_size)
    found = (clip.encode_image(shown.images[shown.image_index]) @ text.T).argmax(1)
    count[0] += int((found == expected).sum())
    count[1] += len(expected)
