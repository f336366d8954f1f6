"""Writes the networks of the photo presets at full size with random weights, in folders such as the hub has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from maskmill.model.clip.input import ClipInput
from maskmill.model.clip.loading import new_clip
from maskmill.model.naming.source_names import SYNONYMS
from maskmill.model.presets import PRESETS
from maskmill.model.sources.hugging_face import require_transformers

_EOMT_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "num_blocks": 4}
_EOMT_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_blocks": 3}
_EOMT = {
    "photo": {**_EOMT_LARGE, "image_size": 640},
    "photo-small": {**_EOMT_BASE, "image_size": 640},
    "photo-large": {**_EOMT_LARGE, "image_size": 1280},
}
_SAM2_SMALL = {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]}
SIZED = (*_EOMT, "photo-parts")
"""Presets whose networks can be written here."""


def write_random_weights(preset: str, folder: Path, seed: int) -> None:
    """Write ``folder``/weights and ``folder``/clip, which take the place of what ``preset`` fetches.

    preset: one of ``SIZED``. The sizes are those of the released configurations; no file of theirs is needed.
    """
    torch.manual_seed(seed)
    network = _sam2() if preset == "photo-parts" else _eomt(_EOMT[preset])
    network.save_pretrained(folder / "weights")
    del network
    _write_clip(PRESETS[preset].clip.partition(":")[0], folder / "clip")


def _eomt(sizes: dict[str, Any]) -> Any:
    transformers = require_transformers()
    names = dict(enumerate(json.loads(SYNONYMS.read_text())))
    labels = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    config = transformers.EomtConfig(**sizes, patch_size=16, num_queries=200, num_upscale_blocks=2, **labels)
    network = transformers.EomtForUniversalSegmentation(config)
    network.attn_mask_probs.fill_(0)
    return network


def _sam2() -> Any:
    transformers = require_transformers()
    config = transformers.Sam2Config(
        vision_config=transformers.Sam2VisionConfig(backbone_config=transformers.Sam2HieraDetConfig(**_SAM2_SMALL))
    )
    return transformers.Sam2Model(config)


def _write_clip(name: str, folder: Path) -> None:
    config, preprocess = open_clip.get_model_config(name), ClipInput()
    network = new_clip(config).model
    folder.mkdir(parents=True)
    description = {
        "model_cfg": config,
        "preprocess_cfg": {
            "mean": [value / 255 for value in preprocess.mean],
            "std": [value / 255 for value in preprocess.std],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
