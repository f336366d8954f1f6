"""What the licences of weights say that are chosen by hand, where they forbid commercial use or are not known."""

from __future__ import annotations

import re

from maskmill.model.fetching import hub_names
from maskmill.model.presets import NON_COMMERCIAL, PRESETS
from maskmill.model.spec import ModelSpec

_APPLE = "Apple's licence for research only (apple-amlr)"
_RESTRICTED = {
    r"facebook/mask2former-.*|facebook/maskformer-.*": f"CC-BY-NC 4.0: {NON_COMMERCIAL}",
    r"apple/.*|timm/MobileCLIP.*": _APPLE,
    r".*/.*metaclip.*": f"CC-BY-NC: {NON_COMMERCIAL}",
    r"tue-mps/eomt-dinov3-.*": "Meta's DINOv3 License: terms of its own, to be accepted on the hub",
}
"""Repositories of the hub, as patterns for the whole name, whose licence is not an open one; from their model cards."""

_OPEN = (
    r"tue-mps/(coco|ade20k)_.*eomt_.*",  # MIT
    r"shi-labs/oneformer_.*",  # MIT
    r"facebook/sam-vit-.*|facebook/sam2.*-hiera-.*",  # Apache-2.0
    r"laion/CLIP-.*",  # MIT
    r"timm/ViT-.*-SigLIP.*",  # Apache-2.0
    r"(timm|facebook)/PE-Core-.*",  # Apache-2.0
    r"timm/eva02_.*",  # MIT
    r"timm/.*_clip_.*\.openai|timm/resnet.*_clip\.openai",  # MIT
    r"UCSC-VLAA/ViT-.*-CLIPA-.*",  # Apache-2.0 and MIT
)
"""Repositories whose licence, the comment beside them, permits commercial use."""


def licence_notices(spec: ModelSpec) -> list[str]:
    """Return one sentence for each part of the model whose licence forbids commercial use, has terms of its own, or is
    not known; none for open licences, and none for files and folders, whose licence only their owner knows.
    """
    notices = [
        f"{name.repository} is licensed under {licence}"
        if (licence := _restriction(name.repository)) is not None
        else f"The licence of {name.repository} is not known to maskmill; read its page on the hub before using it"
        for name in hub_names(spec)
        if not _is_open(name.repository)
    ]
    preset = PRESETS[spec.preset]
    if spec.source.kind == "zegformer" and NON_COMMERCIAL in preset.licence:
        notices.append(f"The weights released for preset {preset.name} are licensed under {preset.licence}")
    return notices


def _restriction(repository: str) -> str | None:
    found = (licence for pattern, licence in _RESTRICTED.items() if re.fullmatch(pattern, repository, re.IGNORECASE))
    return next(found, None)


def _is_open(repository: str) -> bool:
    return any(re.fullmatch(pattern, repository, re.IGNORECASE) for pattern in _OPEN)
