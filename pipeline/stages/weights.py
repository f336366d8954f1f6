"""Copies remote weights to this machine, once, so that the model sees local paths only."""

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
"""Environment variable with the folder for copies of weights and text embeddings; default: ~/.cache/maskmill."""


def cache_directory() -> Path:
    """Return the folder of this machine for data that can be fetched or made again."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "maskmill")


def local_spec(spec: ModelSpec, storage_option: Mapping[str, Any]) -> ModelSpec:
    """Return the specification with a local copy for every remote URI. Raises UsageError if a URI has no file."""
    weights = None if spec.weights is None else _local(spec.weights, storage_option)
    return replace(spec, weights=weights, clip=_local(spec.clip, storage_option))


def loadable_spec(spec: ModelSpec, storage_option: Mapping[str, Any]) -> ModelSpec:
    """Return the specification with local paths only: URIs are copied and names on the hub fetched, once a machine."""
    return fetched_spec(local_spec(spec, storage_option))


def fetch_preset(name: str, into: str | None, storage_option: Mapping[str, Any]) -> dict[str, str]:
    """Fetch the weights of a preset to this machine and, if asked, copy them to a folder or URI.

    Returns the values for the settings ``proposer`` and ``clip``, or with ``into`` for ``weights`` and ``clip``. Raises
    UsageError for an unknown preset, for a preset with nothing to fetch, and if the hub does not have the files.
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
    # Local paths and the names of open_clip ("ViT-B-16-quickgelu:openai") have no "://".
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
    """Download beside the target, then rename, because several workers of a machine may do so at once."""
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
