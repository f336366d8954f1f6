"""Whole models by name: which weights, which CLIP, which settings, under which licence."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maskmill.model.errors import CheckpointError
from maskmill.model.images.resize import MAX_LONG_SIDE
from maskmill.model.naming.settings import RELEASED_CALIBRATION, NamingSettings, Prompts, setting_types
from maskmill.model.zegformer.training_classes import checkpoint_description

BUNDLED = Path(__file__).parent / "bundled"
OPENAI_VIT_B16 = "ViT-B-16-quickgelu:openai"

NON_COMMERCIAL = "non-commercial use only"
"""What the licence of a preset says where it forbids commercial use."""

_BY_NAME = "Fetched by name from the Hugging Face hub when first used; `maskmill models --fetch` fetches them ahead."
_EOMT_LICENCE = "MIT (EoMT; its DINOv2 backbone is Apache-2.0); MIT (CLIP, by LAION)"

_RELEASED_FROM = (
    "The checkpoint folder linked from the README of the official repository, dingjiansw101/ZegFormer on GitHub: "
    "the file trained with the config named above (.pth or .pkl). CLIP: open_clip downloads OpenAI's ViT-B/16."
)
_RELEASED_LICENCE = f"CC-BY-NC 4.0: {NON_COMMERCIAL} (ZegFormer weights); MIT (OpenAI's CLIP weights)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A model by name.

    summary: one line on what it knows. proposer: where segments come from
    (``maskmill.model.sources.source.SourceName``). weights: path of its weights; None where the user brings them, or
    where the proposer's name says where they are. weights_from: where to get them. licence: of the weights. download:
    how much is fetched, None if nothing. published: figures that others have published of its parts, each with what
    was measured; None if there are none. config: the official training configuration, if released.
    benchmark: whose seen classes it was trained with; None where the weights record them. naming, short_side and
    max_long_side are the defaults of a ``ModelSpec``.
    """

    name: str
    summary: str
    weights_from: str
    licence: str
    clip: str
    short_side: int
    max_long_side: int
    proposer: str = "zegformer"
    weights: str | None = None
    download: str | None = None
    published: str | None = None
    config: str | None = None
    benchmark: str | None = None
    naming: NamingSettings = field(default_factory=NamingSettings)


def _released(
    name: str, config: str, benchmark: str, prompts: Prompts, calibration: float, sides: tuple[int, int]
) -> Preset:
    backbone, data = config.split("_")[1], {"coco-stuff": "COCO-Stuff", "voc": "PASCAL VOC", "ade20k-full": "ADE20K"}
    return Preset(
        name=name,
        summary=f"Photographs. The official ZegFormer with {backbone}, trained on {data[benchmark]}'s seen classes.",
        weights_from=_RELEASED_FROM,
        licence=_RELEASED_LICENCE,
        clip=OPENAI_VIT_B16,
        naming=NamingSettings(prompts=prompts, calibration=calibration),
        short_side=sides[0],
        max_long_side=sides[1],
        config=config,
        benchmark=benchmark,
    )


_SIDES = ("short_side", "max_long_side")


def checkpoint_defaults(weights: str | Path) -> dict[str, Any]:
    """Return the settings that a checkpoint of ours recommends, under "defaults" in its zegformer.json.

    These are fields of ``NamingSettings``, ``short_side`` and ``max_long_side``; none for other files. Raises
    CheckpointError for any other name.
    """
    defaults = checkpoint_description(weights).get("defaults", {})
    valid = (*setting_types(), *_SIDES)
    unknown = sorted(set(defaults) - set(valid))
    if unknown:
        raise CheckpointError(f"{weights} records unknown defaults {unknown}; valid: {', '.join(valid)}")
    return dict(defaults)


def preset_with(name: str, weights: str | Path | None) -> Preset:
    """Return the preset of this name, with the settings recorded in ``weights`` where these are of our format."""
    return PRESETS[name] if weights is None else _with_recorded(PRESETS[name], weights)


def _with_recorded(preset: Preset, weights: str | Path) -> Preset:
    recorded = checkpoint_defaults(weights)
    sides = {name: recorded.pop(name) for name in _SIDES if name in recorded}
    return replace(preset, naming=preset.naming.changed(recorded), **sides)


def _bundled() -> Preset:
    preset = Preset(
        name="bundled",
        summary="Drawn shapes, not photographs: a small ZegFormer and CLIP for trying things out offline on a CPU.",
        weights_from="In the package; trained by `maskmill train` of this project.",
        licence="Apache-2.0",
        weights=str(BUNDLED),
        clip=str(BUNDLED),
        naming=NamingSettings(calibration=RELEASED_CALIBRATION),
        short_side=128,
        max_long_side=512,
    )
    return _with_recorded(preset, BUNDLED)


def _photo(name: str, summary: str, eomt: str, clip: str, download: str, published: str) -> Preset:
    """EoMT's panoptic masks, named by mask pooling of a convolutional CLIP and by EoMT where it knows the class."""
    return Preset(
        name=name,
        summary=summary,
        weights_from=_BY_NAME,
        licence=_EOMT_LICENCE,
        download=download,
        published=published,
        proposer=f"hf:tue-mps/{eomt}",
        clip=clip,
        naming=NamingSettings(
            region="pool",
            fusion="vocabulary",
            prompts="vild-14",
            image_prompts="vild-14",
            synonyms="max",
            pool_mask="binary",
            calibration=0.0,
            attend_side=800,
        ),
        short_side=800,
        max_long_side=1333,
    )


_CONVNEXT_L = "convnext_large_d_320:laion2b_s29b_b131k_ft_soup"
_CONVNEXT_B = "convnext_base_w_320:laion_aesthetic_s13b_b82k_augreg"

_OF_CONVNEXT_L = (
    "CLIP alone: 76.9 % top-1 on ImageNet (open_clip); pooled without training under FC-CLIP's masks: panoptic quality "
    "21.9 on ADE20K (arXiv 2308.02487)"
)


def _of_eomt(quality: float) -> str:
    return f"Masks alone: panoptic quality {quality} on COCO, with EoMT's own names (its authors)"


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _bundled(),
        _photo(
            "photo",
            "Photographs, any class names. EoMT-L at 640 pixels and ConvNeXt-L CLIP.",
            "coco_panoptic_eomt_large_640",
            _CONVNEXT_L,
            "2.7 GB",
            f"{_of_eomt(56.0)}. {_OF_CONVNEXT_L}.",
        ),
        _photo(
            "photo-small",
            "Photographs on small machines. EoMT-B at 640 pixels and ConvNeXt-B CLIP.",
            "coco_panoptic_eomt_base_640_2x",
            _CONVNEXT_B,
            "1.1 GB",
            f"{_of_eomt(51.6)}. CLIP alone: 71.3 % top-1 on ImageNet (open_clip).",
        ),
        _photo(
            "photo-large",
            "Photographs with small things. EoMT-L at 1280 pixels, four times as slow, and ConvNeXt-L CLIP.",
            "coco_panoptic_eomt_large_1280",
            _CONVNEXT_L,
            "2.7 GB",
            f"{_of_eomt(58.3)}. {_OF_CONVNEXT_L}.",
        ),
        Preset(
            name="photo-parts",
            summary="Parts of things, and pictures unlike photographs. SAM 2.1 (small) and ViT-B/16 CLIP; slow.",
            weights_from=_BY_NAME,
            licence="Apache-2.0 (SAM 2.1); MIT (CLIP, by DataComp)",
            download="0.8 GB",
            published="CLIP alone: 73.5 % top-1 on ImageNet (open_clip). SAM 2.1's masks of everything: none.",
            proposer="sam:facebook/sam2.1-hiera-small",
            clip="ViT-B-16:datacomp_xl_s13b_b90k",
            naming=NamingSettings(
                fusion="clip", prompts="vild-14", image_prompts="vild-14", synonyms="max", calibration=0.0
            ),
            short_side=800,
            max_long_side=1333,
        ),
        _released(
            "zegformer-r101-coco",
            "zegformer_R101_bs32_60k_vit16_coco-stuff",
            "coco-stuff",
            "single",
            RELEASED_CALIBRATION,
            (640, MAX_LONG_SIDE),
        ),
        _released(
            "zegformer-r50-coco",
            "zegformer_R50_bs32_60k_vit16_coco-stuff",
            "coco-stuff",
            "imagenet_select",
            RELEASED_CALIBRATION,
            (640, MAX_LONG_SIDE),
        ),
        _released(
            "zegformer-r101-voc",
            "zegformer_R101_bs32_10k_vit16_voc",
            "voc",
            "single",
            RELEASED_CALIBRATION,
            (512, 2048),
        ),
        _released(
            "zegformer-r50-ade",
            "zegformer_R50_bs32_60k_vit16_ade20k-full-847-freq",
            "ade20k-full",
            "imagenet_select",
            0.0,
            (512, 2048),
        ),
    )
}
