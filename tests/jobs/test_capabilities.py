"""Parts of a model that do not fit together are refused when the run is planned, before Ray starts: exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskmill.model.presets import BUNDLED
from tests.jobs.finished_runs import add_images, label, refused
from tests.model.sources.tiny_models import save
from tests.model.tiny_clips import CONVNEXT, HALVES, MAP_POOLED, OPENAI_INPUT, VIT, save_open_clip


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, two proposers and three CLIPs with random weights."""
    folder = tmp_path_factory.mktemp("here")
    add_images(folder / "in", "a.png")
    save_open_clip(folder / "vit", VIT, OPENAI_INPUT)
    save_open_clip(folder / "convnext", CONVNEXT, OPENAI_INPUT)
    save_open_clip(folder / "map", MAP_POOLED, HALVES)
    save("eomt", folder / "eomt")
    return folder


def planned(here: Path, **flags: str) -> str:
    """What a dry run says when it refuses."""
    words = [word for name, value in flags.items() for word in ("--" + name.replace("_", "-"), value)]
    return refused(label(here / "in", here / "out", *words))


@pytest.mark.parametrize(
    ("proposer", "choices"),
    [
        ("zegformer", "ensembling, ensembling-all, clip, query"),
        ("felzenszwalb", "clip"),
        ("sam:facebook/sam2.1-hiera-small@" + "0123456789" * 4, "clip"),
    ],
)
def test_fusion_vocabulary_needs_a_proposer_with_names(here: Path, proposer: str, choices: str) -> None:
    line = planned(here, proposer=proposer, fusion="vocabulary")
    assert f"fusion 'vocabulary' needs a proposer that has class names, which {proposer!r} does not have" in line
    assert line.endswith(f"Choose from: {choices}\n")


def test_a_fusion_of_queries_needs_a_proposer_with_queries(here: Path) -> None:
    line = planned(here, proposer=f"hf:{here / 'eomt'}", fusion="ensembling")
    assert "needs query embeddings" in line
    assert line.endswith("Choose from: clip, vocabulary\n")


@pytest.mark.parametrize(
    ("clip", "region", "message"),
    [
        (
            "vit",
            "pool",
            "region 'pool' needs a convolutional CLIP (ResNet, ConvNeXt), not VisionTransformer",
        ),
        ("map", "pool", "region 'pool' needs a convolutional CLIP (ResNet, ConvNeXt), not TimmModel; choose"),
        ("convnext", "attend", "region 'attend' needs a CLIP that attends when it reads out"),
        ("map", "attend", "TimmModel does not: choose 'pool', or 'cropmask'"),
        ("ViT-L-14-336-quickgelu:openai", "pool", "region 'pool' needs a convolutional CLIP"),
        ("convnext_large_d_320:laion2b_s29b_b131k_ft_soup", "attend", "region 'attend' needs a CLIP that attends"),
    ],
)
def test_a_region_needs_a_clip_that_can_do_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, clip: str, region: str, message: str
) -> None:
    monkeypatch.setattr("maskmill.pipeline.run.resolve.pinned_spec", lambda spec, recorded: spec)
    source = clip if ":" in clip else str(here / clip)
    assert message in planned(here, proposer="felzenszwalb", fusion="clip", clip=source, region=region)


def test_a_region_that_the_clip_can_do_is_planned(here: Path) -> None:
    for clip, region in (("vit", "attend"), ("convnext", "pool"), ("map", "crop")):
        words = ("--proposer", "felzenszwalb", "--fusion", "clip", "--clip", str(here / clip), "--region", region)
        result = label(here / "in", here / "out", *words)
        assert result.exit_code == 0, result.output
    for region in ("attend", "pool"):
        assert label(here / "in", here / "out", "--region", region).exit_code == 0


def test_the_layer_and_the_dimensions_are_those_of_the_clip(here: Path) -> None:
    flags = {"proposer": "felzenszwalb", "fusion": "clip", "clip": str(here / "vit"), "region": "attend"}
    assert "attend_layer must be 0 to 1 for this CLIP, got 2" in planned(here, **flags, attend_layer="2")
    line = planned(here, weights=str(BUNDLED), clip=str(here / "vit"))
    assert "has 48 dimensions, but the proposer was trained for a CLIP of 96" in line
