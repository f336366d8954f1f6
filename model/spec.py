"""A model as plain values: what it is made of, loading it, and the fingerprint of what labels depend on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import torch

from maskmill.model.choices import Device, Dtype, require_choice
from maskmill.model.clip.loading import load_clip
from maskmill.model.images.resize import InputSize
from maskmill.model.naming.classifier import Classifier
from maskmill.model.naming.settings import FUSIONS_WITHOUT_QUERIES, NamingSettings, setting_types
from maskmill.model.networks.instructions import warn_of_slow_precision
from maskmill.model.presets import PRESETS, preset_with
from maskmill.model.sources.source import ProposalSource, SourceName, describe_source, load_source
from maskmill.model.vocabulary import Vocabulary
from maskmill.model.zegformer.training_classes import benchmark_seen_classes, checkpoint_seen_classes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precision of the networks by name. Scores and maps are always float32."""


@dataclass(frozen=True, init=False, slots=True)
class ModelSpec:
    """A model as plain values, for sending to workers.

    A value that is left out, or None, is the one recorded with the given weights, else the preset's.

    preset: a name of ``maskmill.model.presets.PRESETS``. proposer: where segments come from
    (``maskmill.model.sources.source.SourceName``). weights: weights of the proposer, a file or a folder; None for a
    proposer whose name says where its weights are. clip: any source of ``maskmill.model.clip.loading.load_clip``, or
    ``hf:REPOSITORY@COMMIT`` of open_clip's. naming: how segments get their names; single settings may be given by name
    instead, as in ``ModelSpec(preset="photo", fusion="clip")``. short_side, max_long_side: see ``Proposer``; pixels.
    dtype: "auto" has to be replaced by a measured choice before loading. device: see ``maskmill.model.choices``.
    compile: see ``maskmill.model.networks.compiling``.

    Raises ValueError for an unknown name or choice, naming the valid ones, and for a preset that needs weights and gets
    none.
    """

    preset: str
    proposer: str
    weights: str | None
    clip: str
    naming: NamingSettings
    short_side: int
    max_long_side: int
    dtype: Dtype
    device: Device
    compile: bool

    def __init__(
        self,
        *,
        preset: str = "bundled",
        proposer: str | None = None,
        weights: str | None = None,
        clip: str | None = None,
        naming: NamingSettings | None = None,
        short_side: int | None = None,
        max_long_side: int | None = None,
        dtype: Dtype = "float32",
        device: Device = "auto",
        compile: bool = False,  # noqa: A002 (the flag's name)
        **choices: Any,
    ) -> None:
        require_choice("preset", preset, tuple(PRESETS))
        require_choice("dtype", dtype, get_args(Dtype))
        require_choice("device", device, get_args(Device))
        unknown = sorted(set(choices) - set(setting_types()))
        if unknown:
            raise ValueError(f"Unknown settings {', '.join(unknown)}. Choose from: {', '.join(_valid_names())}")
        chosen = preset_with(preset, weights)
        proposer = chosen.proposer if proposer is None else proposer
        weights = chosen.weights if weights is None else weights
        values = {
            "preset": preset,
            "proposer": proposer,
            # The preset's weights are those of its own proposer, and of no other.
            "weights": None if proposer != chosen.proposer and weights == chosen.weights else weights,
            "clip": chosen.clip if clip is None else clip,
            "naming": (naming or chosen.naming).changed(choices),
            "short_side": chosen.short_side if short_side is None else short_side,
            "max_long_side": chosen.max_long_side if max_long_side is None else max_long_side,
            "dtype": dtype,
            "device": device,
            "compile": compile,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if self.weights is None and self.source.kind == "zegformer":
            raise ValueError(f"Preset {preset!r} needs weights. {chosen.weights_from} Config: {chosen.config}")
        if self.source.kind != "zegformer" and self.naming.fusion not in FUSIONS_WITHOUT_QUERIES:
            raise ValueError(
                f"Fusion {self.naming.fusion!r} needs query embeddings, which proposals of {str(self.source)!r} do not "
                f"have. Choose from: {', '.join(FUSIONS_WITHOUT_QUERIES)}"
            )

    @property
    def source(self) -> SourceName:
        """Where segments come from. ValueError for an unknown kind."""
        return SourceName.parse(self.proposer)

    @property
    def source_weights(self) -> str:
        """The weights of the source: a file or folder, a URI, or a repository of the hub; empty where it has none."""
        return self.source.name if self.weights is None else self.weights

    @property
    def input_size(self) -> InputSize:
        """What images are brought to."""
        return InputSize(self.short_side, self.max_long_side)


def _valid_names() -> list[str]:
    return [field.name for field in fields(ModelSpec) if field.name != "naming"] + list(setting_types())


def resolve_device(name: str) -> torch.device:
    """Return the device called ``name``, a ``maskmill.model.choices.Device``."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _dtype(spec: ModelSpec) -> torch.dtype:
    if spec.dtype == "auto":
        raise ValueError("dtype 'auto' must be replaced by a measured choice first (model.precision)")
    warn_of_slow_precision(spec.dtype, resolve_device(spec.device))
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
    clip = load_clip(spec.clip, resolve_device(spec.device), _dtype(spec))
    vocabulary = vocabulary.with_training_classes(training_classes(spec))
    names = describe_source(spec.source.kind, spec.source_weights).names
    return Classifier(clip, vocabulary, spec.naming, source_names=names, cache_dir=cache_dir, compiled=spec.compile)


def training_classes(spec: ModelSpec) -> tuple[str, ...]:
    """Return the names of the classes the model was trained with, empty if neither preset nor weights say."""
    if spec.source.kind != "zegformer":
        return ()
    recorded = checkpoint_seen_classes(_weights(spec))
    benchmark = PRESETS[spec.preset].benchmark
    return benchmark_seen_classes(benchmark) if not recorded and benchmark else recorded


_PARTS = ("proposer", "short_side", "max_long_side", "dtype", "compile")
"""Fields of a spec that are parts of a fingerprint as they are, beside the fields of ``NamingSettings``."""

_DEFAULTS = {"proposer": "zegformer", "dtype": "float32", "compile": False}
"""What these parts mean where an older fingerprint lacks them; all fingerprints hold the two sides."""


def spec_fingerprint(spec: ModelSpec, vocabulary: Vocabulary) -> dict[str, str]:
    """Return, part by part, what labels depend on: short hashes of files and names, settings as text.

    The device is left out. Raises ValueError where there are no weights to hash.
    """
    # Neither the colour nor the group of a class changes a label.
    classes = [(entry.names, entry.prompts, entry.seen, entry.distractor) for entry in vocabulary]
    settings = {name: getattr(spec, name) for name in _PARTS} | _plain(spec.naming)
    return {
        "weights": _hash_weights(spec),
        "clip": _hash_clip(spec.clip),
        "vocabulary": hashlib.sha256(json.dumps(classes).encode()).hexdigest()[:16],
        **{name: str(value) for name, value in settings.items()},
    }


def default_parts() -> dict[str, str]:
    """Return what a part means that an older fingerprint lacks: before a setting existed, labels had its default."""
    return {name: str(value) for name, value in {**_DEFAULTS, **_plain(NamingSettings())}.items()}


def _plain(naming: NamingSettings) -> dict[str, Any]:
    return {field.name: getattr(naming, field.name) for field in fields(naming)}


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
