"""Networks of ``transformers`` with random weights and a few ten thousand parameters, saved as the hub saves them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf

from maskmill.model.sources.input_rules import input_rules

NAMES = {0: "person", 1: "traffic light", 2: "grass"}
_LABELS = {"id2label": NAMES, "label2id": {name: number for number, name in NAMES.items()}}
_SWIN: dict[str, Any] = {
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 1, 1],
    "window_size": 4,
    "image_size": 64,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def eomt(hidden_size: int = 32) -> torch.nn.Module:
    return tf.EomtForUniversalSegmentation(
        tf.EomtConfig(
            hidden_size=hidden_size,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=64,
            patch_size=16,
            num_blocks=1,
            num_queries=8,
            num_upscale_blocks=2,
            **_LABELS,
        )
    )


def mask2former() -> torch.nn.Module:
    return tf.Mask2FormerForUniversalSegmentation(
        tf.Mask2FormerConfig(
            backbone_config=tf.SwinConfig(**_SWIN),
            hidden_dim=32,
            feature_size=32,
            mask_feature_size=32,
            encoder_layers=1,
            decoder_layers=3,
            encoder_feedforward_dim=32,
            dim_feedforward=32,
            num_attention_heads=2,
            num_queries=8,
            **_LABELS,
        )
    )


def maskformer() -> torch.nn.Module:
    decoder = tf.DetrConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=8,
    )
    return tf.MaskFormerForInstanceSegmentation(
        tf.MaskFormerConfig(
            backbone_config=tf.SwinConfig(**_SWIN),
            decoder_config=decoder,
            fpn_feature_size=32,
            mask_feature_size=32,
            **_LABELS,
        )
    )


def oneformer() -> torch.nn.Module:
    return tf.OneFormerForUniversalSegmentation(
        tf.OneFormerConfig(
            backbone_config=tf.SwinConfig(**_SWIN),
            hidden_dim=32,
            conv_dim=32,
            mask_dim=32,
            encoder_layers=1,
            decoder_layers=3,
            encoder_feedforward_dim=32,
            dim_feedforward=32,
            num_attention_heads=2,
            num_queries=8,
            query_dec_layers=1,
            text_encoder_width=64,
            text_encoder_num_layers=1,
            text_encoder_vocab_size=50000,
            **_LABELS,
        )
    )


def sam() -> torch.nn.Module:
    small = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2}
    vision = {
        "hidden_size": 32,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_dim": 32,
        "global_attn_indexes": [1],
        "window_size": 2,
        "image_size": 64,
        "patch_size": 16,
        "num_pos_feats": 8,
    }
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    decoder = {**small, "num_hidden_layers": 2, "iou_head_hidden_dim": 16, "iou_head_depth": 2}
    return tf.SamModel(tf.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))


def sam2() -> torch.nn.Module:
    backbone = tf.Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[128, 128],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 4],
        window_size_per_stage=[8, 4, 8, 4],
        window_positional_embedding_background_size=[4, 4],
        global_attention_blocks=[3],
    )
    vision = tf.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    prompt = {"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 4}
    decoder = {
        "hidden_size": 32,
        "mlp_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "iou_head_depth": 2,
        "iou_head_hidden_dim": 32,
    }
    return tf.Sam2Model(tf.Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))


MASK_TRANSFORMERS = {"eomt": eomt, "mask2former": mask2former, "maskformer": maskformer, "oneformer": oneformer}
SAMS = {"sam": sam, "sam2": sam2}


def save(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of ``kind`` with random weights: config.json and model.safetensors."""
    torch.manual_seed(seed)
    network = {**MASK_TRANSFORMERS, **SAMS}[kind]()
    network.eval()
    if kind == "eomt":
        network.attn_mask_probs.fill_(0)
    network.save_pretrained(folder)
    return folder


GRID_CLASSES = (0, 0, 1, 2, 0, 2, 2, 1)
"""What each query of ``save_grid_eomt`` is: an index into NAMES, by cell of the grid, row by row."""


@torch.no_grad()
def save_grid_eomt(folder: Path, picture: np.ndarray) -> Path:
    """Write an EoMT whose eight masks share a picture like ``picture`` as 2 x 4 cells, each with a class of its own.

    Its last two layers are solved by least squares, so that what it says depends on the picture and is no noise.
    picture: uint8 (H, W, 3), wider than high.
    """
    torch.manual_seed(0)
    network, seen = eomt(hidden_size=256).eval(), {}
    network.attn_mask_probs.fill_(0)
    network.embeddings.position_embeddings.weight.mul_(20)  # so that other pictures are cut alike
    network.mask_head.fc3.register_forward_pre_hook(lambda _, given: seen.update(hidden=given[0][0]))
    network.class_predictor.register_forward_pre_hook(lambda _, given: seen.update(queries=given[0][0]))
    network.upscale_block.register_forward_hook(lambda _, given, features: seen.update(features=features[0]))
    rules = input_rules({"model_type": "eomt", "image_size": 64}, {})
    network(pixel_values=rules.prepare(picture)[None])
    side = seen["features"].shape[-1]
    rows = math.ceil(side * picture.shape[0] / picture.shape[1])  # those that hold the picture
    cells = torch.full((8, side, side), -6.0)
    for number in range(8):
        row, column = divmod(number, 4)
        cells[number, row * rows // 2 : (row + 1) * rows // 2, column * side // 4 : (column + 1) * side // 4] = 6
    embeddings = torch.linalg.pinv(seen["features"].flatten(1).T, rtol=1e-2) @ cells.flatten(1).T  # (D, 8)
    classes = torch.full((8, len(NAMES) + 1), -2.0)
    classes[torch.arange(8), torch.tensor(GRID_CLASSES)] = 3
    for layer, hidden, wanted in (
        (network.mask_head.fc3, seen["hidden"], embeddings.T),
        (network.class_predictor, seen["queries"], classes),
    ):
        layer.weight.copy_((torch.linalg.pinv(hidden) @ wanted).T)
        layer.bias.zero_()
    network.save_pretrained(folder)
    return folder
