"""How segments get their names: every setting once, with its valid values, its default and its help.

The flags of ``maskmill label``, presets, fingerprints and the classifier are all made from the fields of
``NamingSettings``. This module imports neither PyTorch nor open_clip, because the command line reads it.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from maskmill.model.choices import require_choice

SubImageRegion = Literal["crop", "mask", "cropmask"]
"""One image for CLIP per mask. crop: the box of the mask. mask: the whole image, black outside the mask. cropmask: the
box, black outside the mask."""

SinglePassRegion = Literal["attend", "pool"]
"""One pass of CLIP over the image for all masks (``maskmill.model.clip.image_encoder``). attend: a copy of the class
token for each mask looks only at the patches under the mask. pool: features of a convolutional CLIP are averaged under
each mask."""

Region = Literal[SubImageRegion, SinglePassRegion]

Fusion = Literal["ensembling", "ensembling-all", "clip", "query", "vocabulary"]
"""ensembling: seen classes trust the query branch, others CLIP (paper equation 4). ensembling-all: every class trusts
CLIP. clip, query: one branch alone. vocabulary: the class probabilities of the proposal source and of CLIP where the
source knows the class, CLIP's elsewhere (``maskmill.model.naming.source_names``)."""

FUSIONS_WITHOUT_QUERIES: tuple[Fusion, ...] = ("clip", "vocabulary")
"""Fusions for proposals that have no query embeddings."""

Prompts = Literal["single", "imagenet_select", "imagenet", "vild-14"]
"""Sets of prompt templates (``maskmill.model.clip.prompts``)."""

ImagePrompts = Literal["release", Prompts]
"""The same sets, and the 32 templates of the released image branch."""

Synonyms = Literal["mean", "max"]
PoolMask = Literal["soft", "binary"]

RELEASED_CALIBRATION = 0.1
"""Gamma of the released COCO-Stuff and VOC models, used with ``ensembling``."""

ACCEPTED_OBJECTNESS = 0.5
"""A query counts as an instance from this objectness on, by default."""


def _about(help_: str, *, at_least: float | None = None, at_most: float | None = None) -> dict[str, Any]:
    return {"help": help_, "at_least": at_least, "at_most": at_most}


@dataclass(frozen=True, kw_only=True, slots=True)
class NamingSettings:
    """How proposals get their names. Raises ValueError for a value that is not valid.

    A new setting is one more field here, with its help: it becomes a flag of ``maskmill label``, a default that presets
    and checkpoints may set, a part of the fingerprint, and a value of ``Classifier.settings``. An older run, whose
    fingerprint lacks the field, was made with its default.
    """

    region: Region = field(
        default="cropmask",
        metadata=_about("What CLIP sees of a segment; attend and pool name all in one pass over the image."),
    )
    attend_side: int | None = field(
        default=None,
        metadata=_about(
            "With --region attend or pool: short side of CLIP's image in pixels; default: twice CLIP's.", at_least=1
        ),
    )
    attend_layer: int | None = field(
        default=None,
        metadata=_about(
            "With --region attend: the block from which segments are told apart; default: 8 of 12.", at_least=0
        ),
    )
    fusion: Fusion = field(
        default="ensembling",
        metadata=_about("How the query branch, the image branch and the proposer's own names are combined."),
    )
    prompts: Prompts = field(default="single", metadata=_about("Prompt templates of the query branch."))
    image_prompts: ImagePrompts = field(default="release", metadata=_about("Prompt templates of the image branch."))
    synonyms: Synonyms = field(
        default="mean",
        metadata=_about("What the image branch makes of a class's synonyms: their mean embedding, or the best one."),
    )
    pool_mask: PoolMask = field(
        default="soft",
        metadata=_about("With --region pool: whether a mask counts as soft shares of cells or as binary."),
    )
    calibration: float | None = field(
        default=None,
        metadata=_about("Subtracted from every seen class before the argmax."),
    )
    resize_masks_first: bool = field(
        default=False,
        metadata=_about("Bring masks to output size before they are summed into a map, instead of the map itself."),
    )
    query_segments: bool = field(
        default=False, metadata=_about("Also make a map of instances: one segment per accepted query.")
    )
    min_objectness: float | None = field(
        default=None,
        metadata=_about(
            "Skip masks with a lower objectness before CLIP; default: 0, or 0.5 with --segments query.",
            at_least=0,
            at_most=1,
        ),
    )
    min_area: int = field(
        default=0, metadata=_about("Skip masks with fewer pixels before CLIP; default 0: none.", at_least=0)
    )
    min_visible: int = field(
        default=0,
        metadata=_about(
            "Skip masks that win fewer pixels than this before CLIP; the strongest mask wins a pixel.", at_least=0
        ),
    )

    def __post_init__(self) -> None:
        for name, kind in setting_types(type(self)).items():
            value = getattr(self, name)
            if choices := choices_of(kind):
                require_choice(name, value, choices)
            elif (problem := out_of_range(name, value, type(self))) is not None:
                raise ValueError(f"{name} {problem}, got {value}")

    @property
    def gamma(self) -> float:
        """The calibration in force."""
        if self.calibration is not None:
            return self.calibration
        return RELEASED_CALIBRATION if self.fusion == "ensembling" else 0.0

    @property
    def least_objectness(self) -> float:
        """The ``min_objectness`` in force."""
        if self.min_objectness is not None:
            return self.min_objectness
        return ACCEPTED_OBJECTNESS if self.query_segments else 0.0

    def changed(self, choices: Mapping[str, Any]) -> NamingSettings:
        """Return these settings with ``choices``, of which None means "as it is". ValueError for an unknown name."""
        valid = setting_types(type(self))
        unknown = sorted(set(choices) - set(valid))
        if unknown:
            raise ValueError(f"Unknown settings {', '.join(unknown)}. Choose from: {', '.join(valid)}")
        return replace(self, **{name: value for name, value in choices.items() if value is not None})


def setting_types(settings: type[Any] = NamingSettings) -> dict[str, Any]:
    """Return the type of every setting by name, in the order of the fields."""
    hints = get_type_hints(settings)
    return {field.name: hints[field.name] for field in fields(settings)}


def setting_help(settings: type[NamingSettings] = NamingSettings) -> dict[str, str]:
    """Return the help of every setting by name."""
    return {field.name: field.metadata["help"] for field in fields(settings)}


def choices_of(kind: Any) -> tuple[str, ...]:
    """Return the values of a ``Literal``, none for another type."""
    return get_args(kind) if get_origin(kind) is Literal else ()


def optional(kind: Any) -> Any:
    """Return the type with None as one more value."""
    is_union = get_origin(kind) in (Union, types.UnionType)
    return kind if is_union and type(None) in get_args(kind) else kind | None


def out_of_range(name: str, value: float | None, settings: type[NamingSettings] = NamingSettings) -> str | None:
    """Return what is wrong with the number given for a setting, such as "must be at least 0"; None if nothing is."""
    if value is None:
        return None
    if not math.isfinite(value):
        return "must be a finite number"
    metadata = next(field.metadata for field in fields(settings) if field.name == name)
    least, most = metadata["at_least"], metadata["at_most"]
    if (least is None or value >= least) and (most is None or value <= most):
        return None
    return f"must be in {least}..{most}" if most is not None else f"must be at least {least}"
