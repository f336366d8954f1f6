"""A model as plain values: what it is made of, loading it, and the fingerprint of what labels depend on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from maskmill.model.clip.loading import load_clip
from maskmill.model.images.resize import InputSize
from maskmill.model.naming.classifier import Classifier
from maskmill.model.naming.scoring import FUSIONS_WITHOUT_QUERIES
from maskmill.model.naming.settings import ClassifierSettings, require_choice
from maskmill.model.presets import PRESETS, checkpoint_defaults
from maskmill.model.sources.source import ProposalSource, SourceName, describe_source, load_source
from maskmill.model.vocabulary import Vocabulary
from maskmill.model.zegformer.training_classes import benchmark_seen_classes, checkpoint_seen_classes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precision of the networks by name. Scores and maps are always float32."""
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A model as plain values, for sending to workers.

    What is None takes, when built, the value recorded with the given weights, else the preset's.

    proposer: where segments come from (``maskmill.model.sources.source.SourceName``). weights: its weights, a file or
        a folder; None for a proposer whose name says where they are. clip: any source of
        ``maskmill.model.clip.loading.load_clip``, or ``hf:REPOSITORY@COMMIT`` of open_clip's.
    region, fusion, prompts, image_prompts, synonyms, pool_mask, calibration, query_segments, min_objectness, min_area,
    min_visible, attend_side, attend_layer: see ``ClassifierSettings``.
    short_side, max_long_side: see ``Proposer``; pixels. dtype: "float32", "bfloat16" or "float16"; "auto" stands for
        what ``maskmill.model.precision`` finds, and has to be replaced by it before loading.
    device: "cpu", "cuda", or "auto" for cuda where there is one. compile: see ``maskmill.model.networks.compiling``.

    Raises ValueError for an unknown choice, naming the valid ones, and for a preset that needs weights given none.
    """

    preset: str = "bundled"
    proposer: str | None = None
    weights: str | None = None
    clip: str | None = None
    region: str | None = None
    fusion: str | None = None
    prompts: str | None = None
    image_prompts: str | None = None
    synonyms: str | None = None
    pool_mask: str | None = None
    calibration: float | None = None
    short_side: int | None = None
    max_long_side: int | None = None
    dtype: str = "float32"
    device: str = "auto"
    compile: bool = False
    query_segments: bool = False
    min_objectness: float | None = None
    min_area: int = 0
    min_visible: int = 0
    attend_side: int | None = None
    attend_layer: int | None = None

    def __post_init__(self) -> None:
        require_choice("preset", self.preset, tuple(PRESETS))
        require_choice("dtype", self.dtype, ("auto", *DTYPES))
        require_choice("device", self.device, DEVICES)
        preset = PRESETS[self.preset]
        recorded = checkpoint_defaults(self.weights) if self.weights else {}
        for field in fields(self):
            if getattr(self, field.name) is None:
                object.__setattr__(self, field.name, recorded.get(field.name, getattr(preset, field.name, None)))
        if self.proposer != preset.proposer and self.weights == preset.weights:
            # The preset's weights are those of its own proposer.
            object.__setattr__(self, "weights", None)
        if self.weights is None and self.source.kind == "zegformer":
            raise ValueError(f"Preset {self.preset!r} needs weights. {preset.weights_from} Config: {preset.config}")
        _ = self.settings  # validates
        if self.source.kind != "zegformer" and self.fusion not in FUSIONS_WITHOUT_QUERIES:
            raise ValueError(
                f"Fusion {self.fusion!r} needs query embeddings, which proposals of {str(self.source)!r} do not have. "
                f"Choose from: {', '.join(FUSIONS_WITHOUT_QUERIES)}"
            )

    @property
    def source(self) -> SourceName:
        """Where segments come from. ValueError for an unknown kind."""
        assert self.proposer is not None
        return SourceName.parse(self.proposer)

    @property
    def source_weights(self) -> str:
        """The weights of the source: a file or folder, a URI, or a repository of the hub; empty where it has none."""
        return self.source.name if self.weights is None else self.weights

    @property
    def input_size(self) -> InputSize:
        """What images are brought to."""
        assert self.max_long_side is not None
        return InputSize(self.short_side, self.max_long_side)

    @property
    def settings(self) -> ClassifierSettings:
        """The classifier's settings."""
        names = [field.name for field in fields(ClassifierSettings) if field.name != "resize_masks_first"]
        return ClassifierSettings(**{name: getattr(self, name) for name in names})


def resolve_device(name: str) -> torch.device:
    """Return the device called ``name``, one of ``DEVICES``."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _dtype(spec: ModelSpec) -> torch.dtype:
    if spec.dtype == "auto":
        raise ValueError("dtype 'auto' must be replaced by a measured choice first (model.precision)")
    return DTYPES[spec.dtype]


def load_proposer(spec: ModelSpec) -> ProposalSource:
    """Load the source of segments; its weights must lie on this machine (``maskmill.model.fetching``)."""
    return load_source(
        spec.source.kind,
        spec.source_weights,
        input_size=spec.input_size,
        device=resolve_device(spec.device),
        dtype=_dtype(spec),
        compiled=spec.compile,
    )


def load_classifier(spec: ModelSpec, vocabulary: Vocabulary, cache_dir: str | Path | None = None) -> Classifier:
    """Load CLIP and embed the classes; ``cache_dir`` keeps the embeddings between runs.

    Classes nobody has flagged as seen or unseen are seen if the preset's model was trained with them.
    """
    assert spec.clip is not None
    clip = load_clip(spec.clip, resolve_device(spec.device), _dtype(spec))
    vocabulary = vocabulary.with_training_classes(training_classes(spec))
    names = describe_source(spec.source.kind, spec.source_weights).names
    return Classifier(clip, vocabulary, spec.settings, source_names=names, cache_dir=cache_dir, compiled=spec.compile)


def training_classes(spec: ModelSpec) -> tuple[str, ...]:
    """Return the names of the classes the model was trained with, empty if neither preset nor weights say."""
    if spec.source.kind != "zegformer":
        return ()
    recorded = checkpoint_seen_classes(_weights(spec))
    benchmark = PRESETS[spec.preset].benchmark
    return benchmark_seen_classes(benchmark) if not recorded and benchmark else recorded


NOT_SETTINGS = ("preset", "weights", "clip", "device")
"""Fields of a spec that its fingerprint does not hold as they are: files are hashed, and the device is left out."""

PRESETS_DEFAULTS = {"proposer": "zegformer", "image_prompts": "release", "synonyms": "mean", "pool_mask": "soft"}
"""What labels were made with before these settings existed; a spec takes their default from its preset."""


def spec_fingerprint(spec: ModelSpec, vocabulary: Vocabulary) -> dict[str, str]:
    """Return, part by part, what labels depend on: short hashes of files and names, settings as text.

    Raises ValueError where there are no weights to hash.
    """
    classes = [
        (entry.names, entry.prompts, entry.seen, entry.distractor) for entry in vocabulary
    ]  # colours and groups change no label
    assert spec.clip is not None
    return {
        "weights": _hash_weights(spec),
        "clip": _hash_clip(spec.clip),
        "vocabulary": hashlib.sha256(json.dumps(classes).encode()).hexdigest()[:16],
        **{name: str(getattr(spec, name)) for name in _setting_defaults()},
    }


def default_parts() -> dict[str, str]:
    """Return what a part means that an older fingerprint lacks: its setting had its default before it existed."""
    return {name: str(default) for name, default in _setting_defaults().items()}


def _setting_defaults() -> dict[str, Any]:
    return {
        field.name: PRESETS_DEFAULTS.get(field.name, field.default)
        for field in fields(ModelSpec)
        if field.name not in NOT_SETTINGS
    }


def _weights(spec: ModelSpec) -> str:
    assert spec.weights is not None
    return spec.weights


def _hash_weights(spec: ModelSpec) -> str:
    """Return a hash of the source's files; a commit of the hub names its files for ever and is taken as it is."""
    if spec.source.kind == "zegformer":
        return _hash_files(_weights(spec), "zegformer.*")
    weights = spec.source_weights
    if not weights or not Path(weights).exists():
        return weights
    return _hash_files(weights, "config.json", "preprocessor_config.json", "*.safetensors")


def _hash_clip(source: str) -> str:
    path = Path(source)
    if path.exists():
        return _hash_files(source, "clip.*", "bpe.*", "open_clip*", "tokenizer*")
    name, _, weights = source.partition(":")
    return f"{name}:{_hash_files(weights)}" if Path(weights).is_file() else source


def _hash_files(source: str, *patterns: str) -> str:
    """Return a short hash of a file, or of a directory's files that match one of ``patterns``."""
    path = Path(source)
    paths = sorted(file for pattern in patterns for file in path.glob(pattern)) if path.is_dir() else [path]
    if not paths or not all(file.is_file() for file in paths):
        raise ValueError(f"No weights at {source!r}")
    digest = hashlib.sha256()
    for file in paths:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
