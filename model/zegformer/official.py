"""The official release's checkpoint keys: one literal map from ours, and the sizes that follow from the arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from maskmill.model.zegformer.config import STAGES, BackboneConfig, ZegFormerConfig

IGNORED_PREFIXES = ("criterion.",)
"""Entries of a training checkpoint that belong to the loss."""

LOGIT_SCALE_KEY = "sem_seg_head.predictor.logit_scale"
"""log(1 / temperature): a constant the release stores and we do not
(``maskmill.model.zegformer.network.TEMPERATURE``)."""

KEY_MAP = {
    "backbone.conv1": "backbone.stem.conv1",
    "backbone.bn1": "backbone.stem.conv1.norm",
    "backbone.stages.res{}.{}.conv{}": "backbone.res{}.{}.conv{}",
    "backbone.stages.res{}.{}.bn{}": "backbone.res{}.{}.conv{}.norm",
    "backbone.stages.res{}.{}.downsample.0": "backbone.res{}.{}.shortcut",
    "backbone.stages.res{}.{}.downsample.1": "backbone.res{}.{}.shortcut.norm",
    "pixel_decoder.laterals.res2.0": "sem_seg_head.pixel_decoder.adapter_1",
    "pixel_decoder.laterals.res2.1": "sem_seg_head.pixel_decoder.adapter_1.norm",
    "pixel_decoder.laterals.res3.0": "sem_seg_head.pixel_decoder.adapter_2",
    "pixel_decoder.laterals.res3.1": "sem_seg_head.pixel_decoder.adapter_2.norm",
    "pixel_decoder.laterals.res4.0": "sem_seg_head.pixel_decoder.adapter_3",
    "pixel_decoder.laterals.res4.1": "sem_seg_head.pixel_decoder.adapter_3.norm",
    "pixel_decoder.outputs.res2.0": "sem_seg_head.pixel_decoder.layer_1",
    "pixel_decoder.outputs.res2.1": "sem_seg_head.pixel_decoder.layer_1.norm",
    "pixel_decoder.outputs.res3.0": "sem_seg_head.pixel_decoder.layer_2",
    "pixel_decoder.outputs.res3.1": "sem_seg_head.pixel_decoder.layer_2.norm",
    "pixel_decoder.outputs.res4.0": "sem_seg_head.pixel_decoder.layer_3",
    "pixel_decoder.outputs.res4.1": "sem_seg_head.pixel_decoder.layer_3.norm",
    "pixel_decoder.outputs.res5.0": "sem_seg_head.pixel_decoder.layer_4",
    "pixel_decoder.outputs.res5.1": "sem_seg_head.pixel_decoder.layer_4.norm",
    "pixel_decoder.mask_features": "sem_seg_head.pixel_decoder.mask_features",
    "input_projection": "sem_seg_head.predictor.input_proj",
    "query_positions": "sem_seg_head.predictor.query_embed.weight",
    "transformer.encoder.{}": "sem_seg_head.predictor.transformer.encoder.layers.{}",
    "transformer.decoder.{}": "sem_seg_head.predictor.transformer.decoder.layers.{}",
    "transformer.norm": "sem_seg_head.predictor.transformer.decoder.norm",
    "mask_embedding.0": "sem_seg_head.predictor.mask_embed.layers.0",
    "mask_embedding.2": "sem_seg_head.predictor.mask_embed.layers.1",
    "mask_embedding.4": "sem_seg_head.predictor.mask_embed.layers.2",
    "class_projection": "sem_seg_head.predictor.projection_layer",
    "no_object_embedding": "sem_seg_head.predictor.bg_feature",
}
"""Our module or parameter name -> the official one. What follows the name (".weight") stays; {} stands for a number."""


_PATTERNS = [
    (re.compile(re.escape(ours).replace(r"\{\}", r"(\d+)") + r"(\..+)?"), official + "{}")
    for ours, official in KEY_MAP.items()
]


def official_key(key: str) -> str:
    """Return the official name of one of our state-dict keys; KeyError if the release has no such key."""
    for pattern, official in _PATTERNS:
        match = pattern.fullmatch(key)
        if match:
            return official.format(*match.groups(default=""))
    raise KeyError(key)


def default_heads(hidden_dim: int) -> int:
    """Return the attention heads assumed where a checkpoint cannot say: heads of 32 channels, at least 4 of them.

    8 at the released width of 256. Lowered to the next divisor where that does not divide ``hidden_dim``.
    """
    heads = max(4, hidden_dim // 32)
    while hidden_dim % heads:
        heads -= 1
    return heads


def infer_config(state: Mapping[str, Tensor], heads: int | None = None) -> ZegFormerConfig:
    """Read every size from the arrays of an official state dict (official key names).

    The number of attention heads leaves no trace in the weights: ``heads`` if given, else ``default_heads``.

    Raises KeyError naming the first array that is missing, ValueError for arrays that make no ZegFormer.
    """
    predictor = "sem_seg_head.predictor"
    queries, hidden_dim = _shape(state, f"{predictor}.query_embed.weight", 2)
    embedding_dim, _ = _shape(state, f"{predictor}.projection_layer.weight", 2)
    conv_dim = _shape(state, "sem_seg_head.pixel_decoder.layer_4.weight", 4)[0]
    mask_dim = _shape(state, "sem_seg_head.pixel_decoder.mask_features.weight", 4)[0]
    memory_channels = _shape(state, f"{predictor}.input_proj.weight", 4)[1]
    feedforward_dim = _shape(state, f"{predictor}.transformer.decoder.layers.0.linear1.weight", 2)[0]
    backbone = _infer_backbone(state)
    # Were two stages equally wide, the release's own choice, the coarsest, is meant.
    sources = [name for name, width in zip(STAGES, backbone.stage_channels, strict=True) if width == memory_channels]
    if not sources:
        raise ValueError(
            f"{predictor}.input_proj.weight reads {memory_channels} channels; the stages have {backbone.stage_channels}"
        )
    return ZegFormerConfig(
        backbone=backbone,
        conv_dim=conv_dim,
        mask_dim=mask_dim,
        hidden_dim=hidden_dim,
        heads=default_heads(hidden_dim) if heads is None else heads,
        feedforward_dim=feedforward_dim,
        encoder_layers=_count(state, f"{predictor}.transformer.encoder.layers."),
        decoder_layers=_count(state, f"{predictor}.transformer.decoder.layers."),
        queries=queries,
        embedding_dim=embedding_dim,
        memory_feature=sources[-1],
    )


def _infer_backbone(state: Mapping[str, Tensor]) -> BackboneConfig:
    bottleneck = any(re.match(r"backbone\.res\d\.\d+\.conv3\.", key) for key in state)
    last = "conv3" if bottleneck else "conv2"
    return BackboneConfig(
        block="bottleneck" if bottleneck else "basic",
        layers=tuple(_count(state, f"backbone.{stage}.") for stage in STAGES),
        stem_channels=_shape(state, "backbone.stem.conv1.weight", 4)[0],
        stage_channels=tuple(_shape(state, f"backbone.{stage}.0.{last}.weight", 4)[0] for stage in STAGES),
        width_per_group=_shape(state, "backbone.res2.0.conv2.weight", 4)[0],
    )


def _shape(state: Mapping[str, Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    shape = tuple(state[key].shape)
    if len(shape) != dimensions:
        raise ValueError(f"{key} has shape {shape}; expected {dimensions} dimensions")
    return shape


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Number of consecutive indices 0, 1, ... that follow ``prefix`` in the keys."""
    indices = {key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)}
    count = 0
    while str(count) in indices:
        count += 1
    return count
