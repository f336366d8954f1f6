"""CLIP weights from a file: reading them safely, and the architecture their sizes tell."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip import CLIPVisionCfg
from torch import Tensor, nn

from maskmill.model.errors import CheckpointError
from maskmill.model.networks.weight_files import read_safetensors

OPENAI_METADATA = ("input_resolution", "context_length", "vocab_size")
HEAD_WIDTH = 64
"""Channels per attention head in OpenAI's transformers, text and image alike; the weights do not tell it."""
WIDEST_OPENAI_VISION = 1024
RESNET_STRIDE = 32


def read_clip_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict file (.safetensors, or anything torch.save wrote), without running code in it.

    A {"state_dict": ...} wrapper and "module." prefixes are taken off.
    Raises CheckpointError for a file that is damaged, holds code, or is no state dict; OSError if unreadable.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if _is_torchscript(path):
        raise CheckpointError(
            f"{path} is a TorchScript archive, a program, and is not run. Name OpenAI's weights instead, as in "
            "ViT-B-16-quickgelu:openai, or save its state dict once with torch.save"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # Damaged bytes can make a parser raise any exception.
        raise CheckpointError(f"{path} is refused, it is damaged or holds more than tensors: {error}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(map(_is_named_tensor, content.items())):
        raise CheckpointError(f"{path} is no state dict: expected names with tensors")
    prefix = "module."
    if all(name.startswith(prefix) for name in content):
        content = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    return dict(content)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(member.endswith("/constants.pkl") for member in archive.namelist())


def _is_named_tensor(item: tuple[object, object]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def load_exactly(model: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Fill every parameter and buffer of ``model``, cast to its type.

    Raises CheckpointError naming keys that are missing, unexpected or of the wrong size.
    """
    expected = model.state_dict()
    given = {key: tensor for key, tensor in weights.items() if key not in OPENAI_METADATA}
    missing, unexpected = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    misfits = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in given and given[key].shape != tensor.shape
    ]
    if missing or unexpected or misfits:
        raise CheckpointError(
            f"{name} does not fit this CLIP: missing {missing}, unexpected {unexpected}, sizes {misfits}"
        )
    model.load_state_dict(given)


def config_from_weights(weights: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """Return the open_clip configuration of an OpenAI-style state dict: vision transformer or modified ResNet.

    The activation is not in the weights: OpenAI's (told by its metadata entries or half precision) is QuickGELU; for
    any other file open_clip's default, GELU, is taken with a warning.
    Raises CheckpointError where sizes tell too little.
    """
    try:
        vision = _vision_transformer(weights) if "visual.proj" in weights else _modified_resnet(weights)
        width = weights["ln_final.weight"].shape[0]
        text = {
            "context_length": weights["positional_embedding"].shape[0],
            "vocab_size": weights["token_embedding.weight"].shape[0],
            "width": width,
            "heads": width // HEAD_WIDTH,
            "layers": _count(weights, "transformer.resblocks.", 2),
        }
        embed_dim = weights["text_projection"].shape[1]
    except KeyError as error:
        raise CheckpointError(f"{name} is not an OpenAI-style CLIP: no {error}. {_NAME_IT}") from error
    if vision["width"] > WIDEST_OPENAI_VISION:
        raise CheckpointError(
            f"{name}: a vision width of {vision['width']} does not tell the number of heads. {_NAME_IT}"
        )
    openai = any(key in weights for key in OPENAI_METADATA) or weights["text_projection"].dtype == torch.float16
    if not openai:
        warnings.warn(f"{name} does not tell its activation, GELU is taken. {_NAME_IT}", stacklevel=3)
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text, "quick_gelu": openai}


_NAME_IT = "Name the architecture of an open_clip checkpoint: NAME:FILE, as in ViT-B-16-quickgelu:FILE"


def resolution_from_weights(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> int | tuple[int, int]:
    """Return the input side in pixels the position embeddings were made for, or the configured one without them."""
    if "visual.attnpool.positional_embedding" in weights:
        return _grid_side(weights["visual.attnpool.positional_embedding"]) * RESNET_STRIDE
    if "visual.positional_embedding" in weights and "patch_size" in config["vision_cfg"]:
        return _grid_side(weights["visual.positional_embedding"]) * config["vision_cfg"]["patch_size"]
    return config["vision_cfg"].get("image_size", CLIPVisionCfg.image_size)


def _vision_transformer(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    patches = weights["visual.conv1.weight"]
    patch_size = patches.shape[-1]
    return {
        "layers": _count(weights, "visual.transformer.resblocks.", 3),
        "width": patches.shape[0],
        "patch_size": patch_size,
        "image_size": _grid_side(weights["visual.positional_embedding"]) * patch_size,
    }


def _modified_resnet(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "layers": [_count(weights, f"visual.layer{stage}.", 2) for stage in (1, 2, 3, 4)],
        "width": weights["visual.layer1.0.conv1.weight"].shape[0],
        "image_size": _grid_side(weights["visual.attnpool.positional_embedding"]) * RESNET_STRIDE,
    }


def _grid_side(positions: Tensor) -> int:
    """Return the cells per side of a square grid from its position embeddings, one more of them for the class token."""
    return round((positions.shape[0] - 1) ** 0.5)


def _count(weights: Mapping[str, Tensor], prefix: str, part: int) -> int:
    """Return how many different numbers follow ``prefix`` in the key names."""
    return len({key.split(".")[part] for key in weights if key.startswith(prefix)})
