"""Builds, loads and saves CLIPs: one loader for every source of weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import CLIP, CLIPTextCfg, CustomTextCLIP, SimpleTokenizer
from open_clip.tokenizer import default_bpe
from safetensors.torch import save
from torch import Tensor

from maskmill.model.clip.clip import Clip
from maskmill.model.clip.input import ClipInput
from maskmill.model.clip.weights import config_from_weights, load_exactly, read_clip_weights, resolution_from_weights
from maskmill.model.errors import CheckpointError

CONFIG_FILE = "clip.json"
OPEN_CLIP_CONFIG_FILE = "open_clip_config.json"
OPEN_CLIP_WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
WEIGHTS_FILE = "clip.safetensors"
TOKENIZER_FILE = "bpe.txt.gz"
SOURCES = (
    "a directory written by save_clip or with open_clip's files, a file with an OpenAI-style state dict, NAME:TAG of "
    "open_clip (ViT-B-16-quickgelu:openai), or NAME:FILE for an open_clip checkpoint of that architecture"
)


def new_clip(config: Mapping[str, Any], *, bpe_path: str | Path | None = None) -> Clip:
    """Build a CLIP with random weights from an open_clip model configuration, ready to train.

    config: {"embed_dim": ..., "vision_cfg": {...}, "text_cfg": {...}, "quick_gelu": bool}.
    bpe_path: gzip file of the tokenizer's merges; None for CLIP's own 49,408 tokens.
    """
    text_config = config["text_cfg"]
    path = None if bpe_path is None else Path(bpe_path)
    tokenizer = SimpleTokenizer(
        default_bpe() if path is None else str(path),
        context_length=text_config.get("context_length", CLIPTextCfg.context_length),
    )
    vocab_size = text_config.get("vocab_size", CLIPTextCfg.vocab_size)
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(f"The tokenizer has {tokenizer.vocab_size} tokens, text_cfg.vocab_size only {vocab_size}")
    return Clip(model=_build(config), tokenizer=tokenizer, config=copy.deepcopy(dict(config)), bpe_path=path)


def load_clip(source: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Clip:
    """Load CLIP from any of ``SOURCES`` for inference: evaluation mode, no gradients.

    Half-precision weights are cast to float32 first. dtype is the precision of the image encoder.
    Raises ValueError for a source that is none of these, CheckpointError (a ValueError) for weights that are damaged
    or do not fit.
    """
    path = Path(source)
    if path.is_dir():
        clip = _from_directory(path)
    elif path.is_file():
        weights = read_clip_weights(path)
        clip = new_clip(config_from_weights(weights, path.name))
        load_exactly(clip.model, weights, path.name)
    elif ":" in str(source):
        name, _, weights_source = str(source).partition(":")
        clip = _from_open_clip(name, weights_source)
    else:
        raise ValueError(f"No CLIP at {str(source)!r}. Give {SOURCES}")
    clip.model.eval().requires_grad_(False)
    clip.model.to(device)
    # Convolutions on CPUs run a third faster with channels last.
    clip.model.visual.to(dtype, memory_format=torch.channels_last)
    return clip


def clip_config(source: str | Path) -> dict[str, Any] | None:
    """Return the open_clip model configuration of a source, read without its weights; None where only these hold it.

    Raises ValueError as ``load_clip`` does for a folder without a configuration and an unknown architecture.
    """
    path = Path(source)
    if path.is_dir():
        is_open_clip = (path / OPEN_CLIP_CONFIG_FILE).is_file()
        name, key = (OPEN_CLIP_CONFIG_FILE, "model_cfg") if is_open_clip else (CONFIG_FILE, "model")
        return dict(_read_description(path / name)[key])
    name, colon, _ = str(source).partition(":")
    return open_clip.get_model_config(name) if colon and not path.is_file() else None


def clip_without_weights(config: Mapping[str, Any]) -> Clip:
    """Return a CLIP of this architecture whose image tower has shapes but neither values nor memory."""
    # Its text tower stands for any: it is as small as can be, and needs no file of another library.
    text = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    with torch.device("meta"):
        model = _build({**config, "vision_cfg": vision, "text_cfg": text, "custom_text": False})
    return Clip(model=model.eval(), tokenizer=SimpleTokenizer(), config=config)


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}: not a directory written by save_clip or open_clip")
    try:
        description = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from error
    needed = "model_cfg" if path.name == OPEN_CLIP_CONFIG_FILE else "model"
    if not isinstance(description, dict) or not isinstance(description.get(needed), dict):
        raise CheckpointError(f"{path} is damaged: it has no {needed!r}")
    return description


def save_clip(clip: Clip, directory: str | Path) -> None:
    """Write ``clip`` as clip.json, clip.safetensors and, with a tokenizer of its own, bpe.txt.gz.

    ``load_clip(directory)`` gives it back. Raises ValueError for a tokenizer that is not byte-pair merges.
    """
    if not isinstance(clip.tokenizer, SimpleTokenizer):
        raise ValueError(f"Cannot save a CLIP with a {type(clip.tokenizer).__name__}; only byte-pair tokenizers")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if clip.bpe_path is not None:
        (directory / TOKENIZER_FILE).write_bytes(clip.bpe_path.read_bytes())
    tokenizer_file = None if clip.bpe_path is None else TOKENIZER_FILE
    description: dict[str, Any] = {"model": clip.config, "tokenizer": tokenizer_file}
    if clip.input != ClipInput():
        description["input"] = asdict(clip.input)
    (directory / CONFIG_FILE).write_text(json.dumps(description, indent=2, default=list) + "\n")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in clip.model.state_dict().items()}
    # As bytes, because safetensors' own file writing makes files that only their owner can read.
    (directory / WEIGHTS_FILE).write_bytes(save(tensors))


def _from_directory(directory: Path) -> Clip:
    if (directory / OPEN_CLIP_CONFIG_FILE).is_file():
        return _from_open_clip_directory(directory)
    config_path = directory / CONFIG_FILE
    description = _read_description(config_path)
    try:
        config, tokenizer_file = description["model"], description["tokenizer"]
        clip_input = ClipInput.from_dict(description.get("input", {}))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{config_path} is damaged: {error!r}") from error
    clip = new_clip(config, bpe_path=None if tokenizer_file is None else directory / TOKENIZER_FILE)
    load_exactly(clip.model, read_clip_weights(directory / WEIGHTS_FILE), WEIGHTS_FILE)
    return replace(clip, input=clip_input)


def _from_open_clip_directory(directory: Path) -> Clip:
    """Load what open_clip publishes on the hub: its configuration, weights as safetensors, and a tokenizer."""
    description = _read_description(directory / OPEN_CLIP_CONFIG_FILE)
    config = description["model_cfg"]
    weights_path = next((directory / name for name in OPEN_CLIP_WEIGHTS_FILES if (directory / name).is_file()), None)
    if weights_path is None:
        raise CheckpointError(f"{directory} holds no weights: none of {', '.join(OPEN_CLIP_WEIGHTS_FILES)} is in it")
    _refuse_captioning(config, directory.name)
    config["text_cfg"]["hf_model_pretrained"] = False
    config["vision_cfg"]["timm_model_pretrained"] = False
    model = _build(config)
    load_exactly(model, read_clip_weights(weights_path), weights_path.name)
    return Clip(
        model=model,
        tokenizer=_tokenizer(f"local-dir:{directory}"),
        config=config,
        input=ClipInput.of_open_clip(description.get("preprocess_cfg", {})),
    )


def _from_open_clip(name: str, weights_source: str) -> Clip:
    """Load a named open_clip architecture, with published weights by tag or from a checkpoint file."""
    config = open_clip.get_model_config(name)
    if config is None:
        raise ValueError(f"Unknown open_clip architecture {name!r}. Choose from: {', '.join(open_clip.list_models())}")
    _refuse_captioning(config, name)
    path = Path(weights_source)
    if path.is_file():
        weights = read_clip_weights(path)
        # Weights fine-tuned at another resolution keep it, rather than having their positions resampled.
        config["vision_cfg"]["image_size"] = resolution_from_weights(weights, config)
        config["text_cfg"]["hf_model_pretrained"] = False
        model = _build(config)
        load_exactly(model, weights, path.name)
        clip_input = ClipInput()
    else:
        _check_tag(name, weights_source, config)
        model = open_clip.create_model(name, pretrained=weights_source, require_pretrained=True)
        clip_input = ClipInput.of_open_clip(open_clip.get_model_preprocess_cfg(model))
    return Clip(model=model, tokenizer=_tokenizer(name), config=config, input=clip_input)


def _refuse_captioning(config: Mapping[str, Any], name: str) -> None:
    if "multimodal_cfg" in config:
        raise ValueError(f"{name}: captioning models are not supported, only plain CLIP")


def _tokenizer(name: str) -> Callable[[list[str]], Tensor]:
    """Return open_clip's tokenizer of a model; ImportError names the extra where it needs ``transformers``."""
    try:
        return open_clip.get_tokenizer(name)
    except ImportError as error:
        raise ImportError(f"the tokenizer of {name} needs transformers: pip install 'maskmill[photo]'") from error


def _build(config: Mapping[str, Any]) -> CLIP | CustomTextCLIP:
    settings = copy.deepcopy(dict(config))
    custom_text = settings.pop("custom_text", False) or "hf_model_name" in settings["text_cfg"]
    return (CustomTextCLIP if custom_text else CLIP)(**settings)


def _check_tag(name: str, tag: str, config: Mapping[str, Any]) -> None:
    """Raise ValueError for a tag open_clip has no weights for, or whose weights need the other activation."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise ValueError(f"No weights {tag!r} for {name}: neither a file nor one of {', '.join(tags)}")
    wants_quick_gelu = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False))
    if wants_quick_gelu != bool(config.get("quick_gelu", False)):
        right = f"{name}-quickgelu" if wants_quick_gelu else name.removesuffix("-quickgelu")
        raise ValueError(f"{name}:{tag} would run with the wrong activation; use {right}:{tag}")
