"""Checkpoints: the release's files are read, our own format is read and written.

Our format is two files in a directory: ``zegformer.safetensors`` holds the weights, ``zegformer.json`` the
configuration (``baseline.*`` for the per-pixel baseline).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from maskmill.model.errors import CheckpointError
from maskmill.model.networks.weight_files import read_safetensors, read_state_dict
from maskmill.model.zegformer.baseline import BaselineConfig, PerPixelBaseline
from maskmill.model.zegformer.config import ZegFormerConfig
from maskmill.model.zegformer.network import TEMPERATURE, ZegFormer
from maskmill.model.zegformer.official import IGNORED_PREFIXES, LOGIT_SCALE_KEY, infer_config, official_key

__all__ = ["convert", "load_baseline", "load_zegformer", "save_baseline", "save_zegformer"]

ZEGFORMER_NAME = "zegformer"
BASELINE_NAME = "baseline"

FORMAT_VERSION = 1
"""Of the JSON file; raised when an older reader could no longer make sense of it."""


Model = TypeVar("Model", ZegFormer, PerPixelBaseline)


def load_zegformer(path: str | Path, *, heads: int | None = None) -> ZegFormer:
    """Return a ZegFormer with the weights at ``path``: float32, on the CPU, in evaluation mode.

    path: a directory or .safetensors file of our format, or a .pth / .pkl file as the official training writes it.
    heads: attention heads of an official checkpoint, which leave no trace in its weights. By default heads of 32
        channels, at least 4 of them: 8 at the released width of 256.

    Raises CheckpointError naming missing, unexpected or misshapen keys, or if the file is damaged or unsafe;
    OSError if it cannot be read; ValueError if ``heads`` contradicts a file of ours.
    """
    path = Path(path)
    if not _is_ours(path):
        return _load_official(path, heads)
    values, state = _read_ours(path, ZEGFORMER_NAME)
    model = _build(lambda: ZegFormer(ZegFormerConfig.from_dict(values)), path)
    if heads not in (None, model.config.heads):
        raise ValueError(f"heads={heads}, but {path} says {model.config.heads}; leave heads out for this format")
    return _filled(model, state, path)


def save_zegformer(model: ZegFormer, directory: str | Path) -> None:
    """Write our format into ``directory``, which is made if need be."""
    _save(model, Path(directory), ZEGFORMER_NAME)


def convert(source: str | Path, destination: str | Path, *, heads: int | None = None) -> None:
    """Read the checkpoint ``source`` as ``load_zegformer`` does and write it into the directory ``destination``."""
    save_zegformer(load_zegformer(source, heads=heads), destination)


def load_baseline(path: str | Path) -> PerPixelBaseline:
    """Return the per-pixel baseline saved at ``path``, a directory or .safetensors file; errors as load_zegformer's."""
    path = Path(path)
    values, state = _read_ours(path, BASELINE_NAME)
    return _filled(_build(lambda: PerPixelBaseline(BaselineConfig.from_dict(values)), path), state, path)


def save_baseline(model: PerPixelBaseline, directory: str | Path) -> None:
    """Write the baseline in our format into ``directory``, which is made if need be."""
    _save(model, Path(directory), BASELINE_NAME)


def _is_ours(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".safetensors"


def _load_official(path: Path, heads: int | None) -> ZegFormer:
    state = _official_state(path)
    try:
        model = _build(lambda: ZegFormer(infer_config(state, heads)), path)
    except KeyError as error:
        found = ", ".join(list(state)[:3])
        raise CheckpointError(
            f"{path} is no official ZegFormer checkpoint; missing keys: {error.args[0]}; found: {found} ..."
        ) from error
    names = {official_key(key): key for key in model.state_dict()}
    _require_keys(path, state, {*names, LOGIT_SCALE_KEY})
    _require_released_temperature(path, state.pop(LOGIT_SCALE_KEY))
    return _filled(model, state, path, names)


def _official_state(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, value in read_state_dict(path).items():
        name = key.removeprefix("module.")  # DistributedDataParallel puts this before every key.
        if name in state:
            raise CheckpointError(f"{path} holds {name} twice, with and without 'module.'")
        if not name.startswith(IGNORED_PREFIXES):
            state[name] = value
    return state


def _require_released_temperature(path: Path, logit_scale: Tensor) -> None:
    released = math.log(1 / TEMPERATURE)
    if logit_scale.numel() != 1 or not math.isclose(float(logit_scale), released, abs_tol=1e-3):
        raise CheckpointError(
            f"{path}: {LOGIT_SCALE_KEY} is {logit_scale.tolist()}; "
            f"only the release's constant log(1 / {TEMPERATURE}) = {released:.4f} is supported"
        )


def _read_ours(path: Path, name: str) -> tuple[Any, dict[str, Tensor]]:
    """The configuration's plain values and the weights of one of our checkpoints."""
    weights_file = path / f"{name}.safetensors" if path.is_dir() else path
    config_file = weights_file.with_suffix(".json")
    try:
        description = json.loads(config_file.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{config_file} is not valid JSON: {error}") from error
    expected = {"format_version": FORMAT_VERSION, "architecture": name}
    if not isinstance(description, dict) or any(description.get(key) != value for key, value in expected.items()):
        raise CheckpointError(f"{config_file} does not hold {expected}; is it a checkpoint of another kind?")
    return description.get("config"), read_safetensors(weights_file)


def _save(model: ZegFormer | PerPixelBaseline, directory: Path, name: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    # As bytes, because safetensors' own file writing makes files that only their owner can read.
    (directory / f"{name}.safetensors").write_bytes(safetensors_bytes(state))
    description = {"format_version": FORMAT_VERSION, "architecture": name, "config": model.config.to_dict()}
    (directory / f"{name}.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _build(make: Callable[[], Model], path: Path) -> Model:
    """A model that has shapes but no memory yet; a configuration that makes no model is the checkpoint's fault."""
    try:
        with torch.device("meta"):
            return make()
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} has no valid configuration: {error}") from error


def _require_keys(path: Path, state: Mapping[str, Tensor], expected: set[str]) -> None:
    missing, unexpected = sorted(expected - set(state)), sorted(set(state) - expected)
    if missing or unexpected:
        raise CheckpointError(
            f"{path} does not fit the model; missing keys: {', '.join(missing) or 'none'}; "
            f"unexpected keys: {', '.join(unexpected) or 'none'}"
        )


def _filled(model: Model, state: Mapping[str, Tensor], path: Path, names: Mapping[str, str] | None = None) -> Model:
    """Return the model with every parameter filled from ``state``, converted to the parameter's type.

    names: the file's name of each array -> the model's, where they differ.
    """
    parameters = model.state_dict()
    names = names or {key: key for key in parameters}
    _require_keys(path, state, set(names))
    misshapen = [
        f"{key} has {tuple(state[key].shape)}, expected {tuple(parameters[ours].shape)}"
        for key, ours in names.items()
        if state[key].shape != parameters[ours].shape
    ]
    if misshapen:
        raise CheckpointError(f"{path} does not fit the model; shapes: {'; '.join(misshapen)}")
    converted = {ours: state[key].to(parameters[ours].dtype, copy=True).contiguous() for key, ours in names.items()}
    model.load_state_dict(converted, strict=True, assign=True)
    return model.eval()
