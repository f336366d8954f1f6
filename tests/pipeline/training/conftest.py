"""Small drawn data sets and an untrained CLIP, shared by the training tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maskmill.model.clip.loading import new_clip, save_clip
from maskmill.pipeline.shapes import CLASSES
from maskmill.pipeline.shapes.write import ShapesSettings, write_shapes
from maskmill.pipeline.training.tokens import learn_merges, words_of, write_merges
from tests.pipeline.training.tiny import TINY_CLIP


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("drawings")
    write_shapes(str(directory), ShapesSettings(images=20, seed=7, shard_size=8))
    return directory


@pytest.fixture(scope="module")
def seen_drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("seen-drawings")
    write_shapes(str(directory), ShapesSettings(images=16, seed=8, allowed="seen"))
    return directory


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CLIP: enough to give names distinct embeddings."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("clip")
    merges = directory / "merges.txt.gz"
    write_merges(learn_merges(words_of(entry.name for entry in CLASSES)), merges)
    save_clip(
        new_clip(TINY_CLIP | {"text_cfg": {**TINY_CLIP["text_cfg"], "vocab_size": 800}}, bpe_path=merges), directory
    )
    return directory
