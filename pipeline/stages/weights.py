"""Weights from anywhere: remote ones are copied to this machine once, and the model only ever sees local paths."""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from maskmill.model import ModelSpec
from maskmill.model.fetching import fetched_spec, pinned_spec
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.storage.files import open_filesystem, with_retries

CACHE = "MASKMILL_CACHE"
"""Environment variable: where copies of remote weights and text embeddings are kept; default ~/.cache/maskmill."""


def cache_directory() -> Path:
    """Where this machine keeps what it can fetch or make again."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "maskmill")


def local_spec(spec: ModelSpec, storage_option: Mapping[str, Any]) -> ModelSpec:
    """The same model with every remote URI replaced by a local copy. Raises UsageError where nothing lies there."""
    weights = None if spec.weights is None else _local(spec.weights, storage_option)
    return replace(spec, weights=weights, clip=_local(spec.clip, storage_option))


def loadable_spec(spec: ModelSpec, storage_option: Mapping[str, Any]) -> ModelSpec:
    """The same model with all it needs on this machine: URIs copied, names on the hub fetched, once a machine."""
    return fetched_spec(local_spec(spec, storage_option))


def fetch_preset(name: str, into: str | None, storage_option: Mapping[str, Any]) -> dict[str, str]:
    """Fetch the weights of a preset to this machine and, if asked, copy them to a folder or URI.

    Returns what to give as ``proposer`` and ``clip``, or with ``into`` as ``weights`` and ``clip``. Raises UsageError
    for an unknown preset, one that has nothing to fetch, and what the hub does not have.
    """
    try:
        spec = pinned_spec(ModelSpec(preset=name))
        if spec == ModelSpec(preset=name):
            raise UsageError(f"preset {name!r} has nothing to fetch by name")
        fetched = fetched_spec(spec)
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error
    if into is None:
        return {"proposer": spec.proposer, "clip": spec.clip}
    fs, root = open_filesystem(into, storage_option)
    places = {"weights": fetched.source_weights, "clip": fetched.clip}
    for part, folder in places.items():
        target = posixpath.join(root, part)
        fs.makedirs(target, exist_ok=True)
        for file in sorted(Path(folder).iterdir()):
            with_retries(partial(fs.put_file, str(file), posixpath.join(target, file.name)))
    return {part: posixpath.join(into, part) for part in places}


def _local(source: str, storage_option: Mapping[str, Any]) -> str:
    # open_clip's own names ("ViT-B-16-quickgelu:openai") have no "://".
    if "://" not in source:
        return source
    fs, path = open_filesystem(source, storage_option)
    try:
        info = with_retries(lambda: fs.info(path))
    except FileNotFoundError as error:
        raise UsageError(f"there are no weights at {source}") from error
    version = str(fs.ukey(path)) if info["type"] == "file" else str(sorted(fs.find(path, detail=True).items()))
    digest = hashlib.sha256(f"{source}\n{version}".encode()).hexdigest()[:16]
    target = cache_directory() / "weights" / digest / posixpath.basename(path.rstrip("/"))
    if not target.exists():
        _copy(fs, path, target)
    return str(target)


def _copy(fs: Any, path: str, target: Path) -> None:
    """Download beside the target, then rename: several workers of a machine may do this at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        with_retries(lambda: fs.get(path, str(beside / target.name), recursive=True))
        try:
            (beside / target.name).rename(target)
        except OSError:
            if not target.exists():
                raise
    finally:
        shutil.rmtree(beside)
