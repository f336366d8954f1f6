"""Licences of weights chosen by hand: what forbids commercial use is said, and so is what nobody here knows."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from maskmill.model.fetching import hub_names
from maskmill.model.licences import licence_notices
from maskmill.model.networks.weight_files import CheckpointError
from maskmill.model.presets import PRESETS
from maskmill.model.segmenter import Segmenter
from maskmill.model.spec import ModelSpec
from maskmill.model.vocabulary import Vocabulary
from tests.model.tiny_clips import CONVNEXT, OPENAI_INPUT, save_open_clip

COMMIT = "0123456789" * 4


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("zegformer")])
def test_presets_have_open_licences_only(name: str) -> None:
    assert licence_notices(ModelSpec(preset=name)) == []


@pytest.mark.parametrize(
    "proposer",
    [
        f"hf:shi-labs/oneformer_coco_swin_large@{COMMIT}",
        "hf:tue-mps/ade20k_panoptic_eomt_large_1280",
        "sam:facebook/sam-vit-huge",
        "sam:facebook/sam2.1-hiera-large",
        "felzenszwalb",
    ],
)
def test_open_weights_need_no_words(proposer: str) -> None:
    assert licence_notices(ModelSpec(preset="photo", proposer=proposer, fusion="clip")) == []


@pytest.mark.parametrize(
    "proposer, licence",
    [
        ("hf:facebook/mask2former-swin-large-coco-panoptic", "CC-BY-NC 4.0: non-commercial use only"),
        (f"hf:facebook/mask2former-swin-tiny-coco-panoptic@{COMMIT}", "CC-BY-NC 4.0: non-commercial use only"),
        ("hf:facebook/maskformer-swin-base-coco", "CC-BY-NC 4.0: non-commercial use only"),
        ("hf:tue-mps/eomt-dinov3-coco-panoptic-base-640", "DINOv3 License: terms of its own"),
    ],
)
def test_proposers_that_forbid_something_are_named(proposer: str, licence: str) -> None:
    [notice] = licence_notices(ModelSpec(preset="photo", proposer=proposer))
    assert proposer.removeprefix("hf:").partition("@")[0] in notice
    assert licence in notice


@pytest.mark.parametrize(
    "clip, licence",
    [
        ("ViT-B-16:dfn2b", "research only (apple-amlr)"),
        ("MobileCLIP2-B:dfndr2b", "research only (apple-amlr)"),
        ("ViT-B-16-quickgelu:metaclip_400m", "CC-BY-NC: non-commercial use only"),
        ("ViT-H-14-worldwide:metaclip2_worldwide", "CC-BY-NC: non-commercial use only"),
        (f"hf:apple/DFN5B-CLIP-ViT-H-14@{COMMIT}", "research only (apple-amlr)"),
    ],
)
def test_clips_that_forbid_something_are_named(clip: str, licence: str) -> None:
    [notice] = licence_notices(ModelSpec(preset="photo", clip=clip))
    assert licence in notice


@pytest.mark.parametrize(
    "clip",
    ["ViT-B-16-quickgelu:openai", "ViT-B-16-SigLIP2:webli", "PE-Core-B-16:meta", "EVA02-B-16:merged2b_s8b_b131k"],
)
def test_open_clips_need_no_words(clip: str) -> None:
    assert licence_notices(ModelSpec(preset="photo", clip=clip)) == []


def test_what_is_not_known_is_said() -> None:
    notices = licence_notices(ModelSpec(preset="photo", proposer="hf:owner/eomt", clip="RN50:cc12m"))
    assert [notice.split(" is not known")[0] for notice in notices] == [
        "The licence of owner/eomt",
        "The licence of timm/resnet50_clip.cc12m",
    ]


def test_the_released_zegformer_is_named_and_files_are_the_users_matter(tmp_path: Path) -> None:
    [notice] = licence_notices(ModelSpec(preset="zegformer-r101-coco", weights="w.pth"))
    assert notice.startswith("The weights released for preset zegformer-r101-coco are licensed under CC-BY-NC 4.0")
    mixed = ModelSpec(preset="zegformer-r101-coco", proposer="felzenszwalb", fusion="clip")
    assert licence_notices(mixed) == []
    folders = ModelSpec(preset="photo", proposer=f"hf:{tmp_path}", clip=str(tmp_path))
    assert hub_names(folders) == []
    assert licence_notices(folders) == []


def test_a_model_built_by_name_logs_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    settings = {"proposer": f"hf:facebook/mask2former-swin-tiny-coco-panoptic@{COMMIT}"}
    clip = str(save_open_clip(tmp_path / "clip", CONVNEXT, OPENAI_INPUT))
    with caplog.at_level(logging.WARNING), pytest.raises(CheckpointError, match="not in the cache"):
        Segmenter.from_preset("photo", vocabulary=Vocabulary(["cat"]), clip=clip, **settings)
    assert "facebook/mask2former-swin-tiny-coco-panoptic is licensed under CC-BY-NC 4.0" in caplog.text
