"""Weights may lie anywhere; what the model sees is a local copy, made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskmill.model import ModelSpec
from maskmill.model.presets import BUNDLED
from maskmill.model.spec import load_proposer
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.stages.weights import CACHE, local_spec


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_in_a_bucket_is_copied_once_and_loads(s3_bucket: Any, cache: Path) -> None:
    s3_bucket.upload(BUNDLED, "weights/bundled")
    spec = ModelSpec(weights=f"{s3_bucket.uri}/weights/bundled", clip=f"{s3_bucket.uri}/weights/bundled")
    local = local_spec(spec, s3_bucket.storage_options)
    assert local.weights == local.clip
    assert Path(str(local.weights)).is_relative_to(cache)
    load_proposer(local)
    copied_ns = (Path(str(local.weights)) / "zegformer.safetensors").stat().st_mtime_ns
    assert local_spec(spec, s3_bucket.storage_options) == local
    assert (Path(str(local.weights)) / "zegformer.safetensors").stat().st_mtime_ns == copied_ns


def test_a_replaced_file_is_copied_anew(s3_bucket: Any) -> None:
    uri = f"{s3_bucket.uri}/one.pth"
    s3_bucket.put("one.pth", b"first")
    first = local_spec(ModelSpec(weights=uri), s3_bucket.storage_options)
    s3_bucket.put("one.pth", b"second, longer")
    second = local_spec(ModelSpec(weights=uri), s3_bucket.storage_options)
    assert Path(str(first.weights)).read_bytes() == b"first"
    assert Path(str(second.weights)).read_bytes() == b"second, longer"


def test_nothing_there_is_wrong_usage(s3_bucket: Any) -> None:
    with pytest.raises(UsageError, match=r"no weights at .*nowhere"):
        local_spec(ModelSpec(weights=f"{s3_bucket.uri}/nowhere.pth"), s3_bucket.storage_options)


def test_local_paths_and_open_clip_names_stay_as_they_are() -> None:
    spec = ModelSpec(weights="some/file.pth", clip="ViT-B-16-quickgelu:openai")
    assert local_spec(spec, {}) == spec
