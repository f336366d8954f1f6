"""CLIPs with random weights in the folders that open_clip publishes on the hub, small enough for tests."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from open_clip import CLIP, CustomTextCLIP
from safetensors.torch import save_file

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
CONVNEXT: dict[str, Any] = {
    "embed_dim": 48,
    "vision_cfg": {
        "timm_model_name": "test_convnext",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_drop": 0.0,
        "image_size": 64,
    },
    "text_cfg": TEXT,
}
VIT: dict[str, Any] = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": TEXT,
}
MAP_POOLED: dict[str, Any] = {
    "embed_dim": 64,
    "custom_text": True,
    "vision_cfg": {
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": 160,
    },
    "text_cfg": {**TEXT, "width": 64},
}
OPENAI_INPUT = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
HALVES = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "resize_mode": "squash"}


def save_open_clip(folder: Path, config: dict[str, Any], preprocess: dict[str, Any], seed: int = 0) -> Path:
    """Write open_clip_config.json and open_clip_model.safetensors with random weights."""
    torch.manual_seed(seed)
    settings = copy.deepcopy(config)
    custom = settings.pop("custom_text", False)
    network = (CustomTextCLIP if custom else CLIP)(**settings)
    folder.mkdir(parents=True, exist_ok=True)
    description = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()},
        folder / "open_clip_model.safetensors",
        metadata={"format": "pt"},
    )
    return folder
