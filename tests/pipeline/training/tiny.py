"""Training requests small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from maskmill.pipeline.training.recipes import load_config
from maskmill.pipeline.training.train import CONFIGS, TrainRequest

CPU = torch.device("cpu")
TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
}
TINY_BACKBONE = {"block": "basic", "layers": [1, 1, 1, 1], "stem_channels": 8, "stage_channels": [16, 16, 32, 32]}


def tiny_request(kind: str, data: Path, out: Path, settings: list[str], clip: Path | None = None) -> TrainRequest:
    if clip is not None:
        settings = [*settings, f"clip={clip}"]
    config = load_config(kind, "bundled", CONFIGS[kind], settings)
    return TrainRequest(
        kind=kind,
        data=str(data),
        classes=str(data / "classes.json"),
        out=str(out),
        config=config.model_dump(mode="json"),
    )


def tiny(kind: str, steps: int = 4) -> list[str]:
    settings = [
        f"loop.steps={steps}",
        "loop.batch_size=4",
        "loop.precision=float32",
        "loop.loader_processes=0",
        "loop.log_every_steps=1",
        "loop.checkpoint_every_steps=2",
    ]
    if kind == "clip":
        return [*settings, f"model={json.dumps(TINY_CLIP)}", "short_side=64"]
    sizes: dict[str, Any] = {"backbone": TINY_BACKBONE, "conv_dim": 32, "mask_dim": 16}
    if kind == "grouping":
        sizes |= {"hidden_dim": 32, "heads": 2, "feedforward_dim": 32, "decoder_layers": 2, "queries": 8}
    return [*settings, f"model={json.dumps(sizes)}", "data.short_side=64", "data.crop=64"]


def metrics_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
