"""Whether a proposer and a CLIP can do what the naming settings ask for, found out without loading their weights."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from maskmill.model.clip.image_encoder import ImageEncoder
from maskmill.model.clip.loading import clip_config, clip_without_weights
from maskmill.model.naming.settings import FUSIONS_WITHOUT_QUERIES, Fusion, SinglePassRegion
from maskmill.model.sources.source import describe_source
from maskmill.model.spec import ModelSpec
from maskmill.model.zegformer.training_classes import checkpoint_description


def check_capabilities(spec: ModelSpec) -> None:
    """Raise ValueError, naming the setting and its valid values, where the parts of the model do not fit together.

    What lies on this machine is looked at, and architectures that open_clip knows by name. Files of the hub that are
    not here yet, and CLIPs that are a single file, are checked when they are loaded.
    """
    _check_names(spec)
    _check_clip(spec)


def _check_names(spec: ModelSpec) -> None:
    is_elsewhere = spec.source.kind == "hf" and not Path(spec.source_weights).is_dir()
    if spec.naming.fusion != "vocabulary" or is_elsewhere:
        return
    description = describe_source(spec.source.kind, spec.source_weights)
    if description.names is None:
        fusions = get_args(Fusion) if description.has_queries else FUSIONS_WITHOUT_QUERIES
        others = ", ".join(fusion for fusion in fusions if fusion != "vocabulary")
        raise ValueError(
            f"fusion 'vocabulary' needs a proposer that has class names, which {str(spec.source)!r} does not have. "
            f"Choose from: {others}"
        )


def _check_clip(spec: ModelSpec) -> None:
    config = clip_config(spec.clip)
    if config is None:
        return
    if spec.source.kind == "zegformer" and spec.weights is not None:
        recorded = checkpoint_description(spec.weights).get("config")
        trained_for = recorded.get("embedding_dim") if isinstance(recorded, dict) else None
        if trained_for not in (None, config.get("embed_dim")):
            raise ValueError(
                f"clip {spec.clip} has {config.get('embed_dim')} dimensions, but the proposer was trained for a CLIP "
                f"of {trained_for}: choose the CLIP it was trained with, or fusion clip with another proposer"
            )
    if spec.naming.region in get_args(SinglePassRegion):
        encoder = ImageEncoder(clip_without_weights(config))
        encoder.require_single_pass(spec.naming.region)
        encoder.start_layer(spec.naming.attend_layer)
