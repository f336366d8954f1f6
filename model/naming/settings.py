"""How proposals get their names, as plain values that are checked when they are built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from maskmill.model.clip.prompts import IMAGE_PROMPT_SETS, PROMPT_SETS
from maskmill.model.naming.regions import REGIONS
from maskmill.model.naming.scoring import FUSIONS

RELEASED_CALIBRATION = 0.1
"""Gamma of the released COCO-Stuff and VOC models, used with ``ensembling``."""

ACCEPTED_OBJECTNESS = 0.5
"""From where on a query counts as an instance, unless told otherwise."""


SYNONYMS = ("mean", "max")
POOL_MASKS = ("soft", "binary")


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError naming the choices unless ``value`` is one of them."""
    if value not in choices:
        raise ValueError(f"Unknown {name} {value!r}. Choose from: {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierSettings:
    """How proposals get their names; ValueError for an unknown choice.

    region: what CLIP sees of a segment: "crop", "mask", "cropmask", or for all segments in a single pass over the
        image "attend" or "pool".
    fusion: one of ``maskmill.model.naming.scoring.FUSIONS``; "query" does not run CLIP on images.
    prompts: templates of the query branch, a name of ``maskmill.model.clip.prompts.PROMPT_SETS``.
    image_prompts: templates of the image branch, a name of ``maskmill.model.clip.prompts.IMAGE_PROMPT_SETS``.
    synonyms: what the image branch makes of a class's names: the "mean" of their embeddings, or the "max" of their
        logits.
    pool_mask: with region "pool", whether a mask counts as "soft" shares of cells or "binary".
    calibration: subtracted from the semantic scores of seen classes before the argmax. None: the released models' 0.1
        with "ensembling", 0 otherwise.
    resize_masks_first: bring masks to output size before the semantic sum, instead of the sum itself.
    query_segments: also make ``Segmentation.query_map``.
    min_objectness: queries below are skipped before CLIP and take no part in any map, 0..1; None: 0, which skips
        none, or 0.5 with ``query_segments``.
    min_area: queries whose mask has fewer pixels of the output are skipped likewise.
    min_visible: so are queries whose mask is the strongest of all on fewer pixels of the output.
    attend_side: short side of the image for a single pass; None: twice CLIP's own side. In pixels.
    attend_layer: block of the vision transformer from which on segments are told apart; None: two thirds through.
    """

    region: str = "cropmask"
    fusion: str = "ensembling"
    prompts: str = "single"
    image_prompts: str = "release"
    synonyms: str = "mean"
    pool_mask: str = "soft"
    calibration: float | None = None
    resize_masks_first: bool = False
    query_segments: bool = False
    min_objectness: float | None = None
    min_area: int = 0
    min_visible: int = 0
    attend_side: int | None = None
    attend_layer: int | None = None

    def __post_init__(self) -> None:
        require_choice("region", self.region, REGIONS)
        require_choice("fusion", self.fusion, FUSIONS)
        require_choice("prompts", self.prompts, tuple(PROMPT_SETS))
        require_choice("image_prompts", self.image_prompts, tuple(IMAGE_PROMPT_SETS))
        require_choice("synonyms", self.synonyms, SYNONYMS)
        require_choice("pool_mask", self.pool_mask, POOL_MASKS)
        if self.calibration is not None and not math.isfinite(self.calibration):
            raise ValueError(f"calibration must be a finite number, got {self.calibration}")
        if self.min_objectness is not None and not 0 <= self.min_objectness <= 1:
            raise ValueError(f"min_objectness must be in 0..1, got {self.min_objectness}")
        for name, least in (("min_area", 0), ("min_visible", 0), ("attend_side", 1), ("attend_layer", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

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
