"""A model's names on the hub become commits when a run is planned, and local folders where the model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import open_clip

from maskmill.model.hub import CLIP_FILES, NETWORK_FILES, HubName, fetch, pinned
from maskmill.model.sources.source import BY_NAME
from maskmill.model.spec import ModelSpec

HUB = "hf:"
"""What a CLIP's source begins with when it is a repository of the hub that holds open_clip's files."""
FETCHED_BY_OPEN_CLIP = ("openai",)
"""Tags whose weights open_clip fetches itself, as the released ZegFormer's presets have always had it."""


def pinned_spec(spec: ModelSpec, recorded: Mapping[str, str] | None = None) -> ModelSpec:
    """Return the spec with a commit for every repository of the hub that it names; asks the hub once for each.

    recorded: the fingerprint of an earlier run into the same output. A repository without a commit of the user's keeps
    the commit recorded there, so that a rerun does not change its model because the repository got a new file.
    Raises CheckpointError (a ValueError) where the hub has no such repository or cannot be reached.
    """
    recorded = recorded or {}
    source, clip = _source_on_hub(spec), _clip_on_hub(spec)
    if source is not None:
        spec = replace(spec, proposer=f"{spec.source.kind}:{_pinned_as(source, recorded.get('weights', ''))}")
    if clip is not None:
        spec = replace(spec, clip=f"{HUB}{_pinned_as(clip, recorded.get('clip', '').removeprefix(HUB))}")
    return spec


def fetched_spec(spec: ModelSpec) -> ModelSpec:
    """Return the spec with a local folder for every pinned repository of the hub, fetched once a machine."""
    source, clip = _source_on_hub(spec), _clip_on_hub(spec)
    if source is not None:
        spec = replace(spec, weights=str(fetch(source, NETWORK_FILES)))
    if clip is not None:
        spec = replace(spec, clip=str(fetch(clip, CLIP_FILES)))
    return spec


def hub_names(spec: ModelSpec) -> list[HubName]:
    """Return the repositories of the hub that the model is made of, the proposer's before CLIP's."""
    return [name for name in (_source_on_hub(spec), _clip_on_hub(spec)) if name is not None]


def _pinned_as(name: HubName, recorded: str) -> HubName:
    if name.revision is None and recorded.startswith(f"{name.repository}@"):
        return HubName.parse(recorded)
    return pinned(name)


def _source_on_hub(spec: ModelSpec) -> HubName | None:
    """Return the repository that holds the proposer's weights, None where they lie elsewhere."""
    if spec.source.kind not in BY_NAME or spec.weights is not None or Path(spec.source.name).is_dir():
        return None
    return HubName.parse(spec.source.name)


def _clip_on_hub(spec: ModelSpec) -> HubName | None:
    """Return the repository that holds CLIP's weights, None where they lie elsewhere or open_clip fetches them."""
    if spec.clip.startswith(HUB):
        return HubName.parse(spec.clip.removeprefix(HUB))
    name, _, tag = spec.clip.partition(":")
    if not tag or tag in FETCHED_BY_OPEN_CLIP or Path(spec.clip).exists() or Path(tag).is_file():
        return None
    repository = open_clip.get_pretrained_cfg(name, tag).get("hf_hub", "")
    return HubName.parse(repository.strip("/")) if repository else None
