"""Prompt templates: the sentences a class name is put into before CLIP's text encoder sees it (paper section 3.2).

A template holds ``{}`` where the name goes. Query branch and image branch have a set each (``PROMPT_SETS``,
``IMAGE_PROMPT_SETS``); the paper's image branch uses 32 templates of its own (``IMAGE_BRANCH``).
"""

from __future__ import annotations

from open_clip import OPENAI_IMAGENET_TEMPLATES

from maskmill.model.choices import require_choice

SINGLE: tuple[str, ...] = ("A photo of a {} in the scene",)

IMAGENET_SELECT: tuple[str, ...] = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
    "A photo of a {} in the scene",
)

IMAGENET: tuple[str, ...] = tuple(fill("{}") for fill in OPENAI_IMAGENET_TEMPLATES)
"""CLIP's own 80 ImageNet templates."""

_PLAIN_VIEWS = (
    "a bad photo of the {}.",
    "a photo of the large {}.",
    "a photo of the small {}.",
    "a cropped photo of a {}.",
)
_SIZED_VIEWS = tuple(
    f"This is a {kind} of a {size}{{}}"
    for kind in ("photo", "masked photo", "cropped photo")
    for size in ("", "small ", "medium ", "large ")
)
_SCENE_VIEWS = (
    "A photo of a {} in the scene",
    "a bad photo of the {} in the scene",
    "a photo of the large {} in the scene",
    "a photo of the small {} in the scene",
    "a cropped photo of a {} in the scene",
    "a photo of a masked {} in the scene",
)
_STATEMENTS = (
    "There is a {} in the scene",
    "There is the {} in the scene",
    "This is a {} in the scene",
    "This is the {} in the scene",
    "This is one {} in the scene",
)
_MASKED_STATEMENTS = tuple(statement.replace("{}", "masked {}") for statement in _STATEMENTS)

IMAGE_BRANCH: tuple[str, ...] = _PLAIN_VIEWS + _SIZED_VIEWS + _SCENE_VIEWS + _STATEMENTS + _MASKED_STATEMENTS
"""The 32 templates of the CLIP image branch; they speak of the crops and masks it is shown."""

VILD: tuple[str, ...] = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
"""The 14 templates of ViLD (arXiv 2104.13921) that FC-CLIP and others use with mask pooling."""

PROMPT_SETS: dict[str, tuple[str, ...]] = {
    "single": SINGLE,
    "imagenet_select": IMAGENET_SELECT,
    "imagenet": IMAGENET,
    "vild-14": VILD,
}
"""Template sets of the query branch by name."""

IMAGE_PROMPT_SETS: dict[str, tuple[str, ...]] = {"release": IMAGE_BRANCH, **PROMPT_SETS}
"""Template sets of the image branch by name; "release" are its 32 of the paper's system."""


def prompt_set(name: str) -> tuple[str, ...]:
    """Return the query branch's templates called ``name``; ValueError names the sets there are."""
    require_choice("prompts", name, tuple(PROMPT_SETS))
    return PROMPT_SETS[name]
