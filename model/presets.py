"""Whole models by name: which weights, which CLIP, which settings; and loading one from plain values."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import load_zegformer
from model.classifier import Classifier
from model.classifier_settings import RELEASED_CALIBRATION, ClassifierSettings, require_choice
from model.clip import load_clip
from model.proposer import Proposer
from model.resize import MAX_LONG_SIDE
from model.segmenter import DTYPES, Segmenter
from model.training_classes import benchmark_seen_classes, checkpoint_description, checkpoint_seen_classes
from model.vocabulary import Vocabulary
from model.weight_files import CheckpointError

BUNDLED = Path(__file__).parent / "bundled"
OPENAI_VIT_B16 = "ViT-B-16-quickgelu:openai"
DEVICES = ("auto", "cpu", "cuda")

_RELEASED_FROM = (
    "The checkpoint folder linked from the README of the official repository, dingjiansw101/ZegFormer on GitHub: "
    "the file trained with the config named above (.pth or .pkl). CLIP: open_clip downloads OpenAI's ViT-B/16."
)
_RELEASED_LICENCE = "CC-BY-NC 4.0: non-commercial use only (ZegFormer weights); MIT (OpenAI's CLIP weights)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A model by name.

    summary: one line on what it knows. weights: path of the ZegFormer weights, None where the user brings them.
    weights_from: where to get them. licence: of the weights. config: the official training configuration, if released.
    benchmark: whose seen classes it was trained with; None where the weights record them.
    Other fields are the defaults of a ``ModelSpec``.
    """

    name: str
    summary: str
    weights_from: str
    licence: str
    clip: str
    prompts: str
    calibration: float
    short_side: int
    max_long_side: int
    weights: str | None = None
    config: str | None = None
    benchmark: str | None = None
    region: str = "cropmask"
    fusion: str = "ensembling"


def _released(
    name: str, config: str, benchmark: str, prompts: str, calibration: float, sides: tuple[int, int]
) -> Preset:
    backbone, data = config.split("_")[1], {"coco-stuff": "COCO-Stuff", "voc": "PASCAL VOC", "ade20k-full": "ADE20K"}
    return Preset(
        name=name,
        summary=f"Photographs. The official ZegFormer with {backbone}, trained on {data[benchmark]}'s seen classes.",
        weights_from=_RELEASED_FROM,
        licence=_RELEASED_LICENCE,
        clip=OPENAI_VIT_B16,
        prompts=prompts,
        calibration=calibration,
        short_side=sides[0],
        max_long_side=sides[1],
        config=config,
        benchmark=benchmark,
    )


RECORDED_DEFAULTS = ("region", "fusion", "prompts", "calibration", "short_side", "max_long_side")
"""Settings a checkpoint of ours may recommend, under "defaults" in its zegformer.json."""


def checkpoint_defaults(weights: str | Path) -> dict[str, Any]:
    """Return the settings recorded with our checkpoint, none for others. CheckpointError for one there is not."""
    defaults = checkpoint_description(weights).get("defaults", {})
    unknown = sorted(set(defaults) - set(RECORDED_DEFAULTS))
    if unknown:
        raise CheckpointError(f"{weights} records unknown defaults {unknown}; valid: {', '.join(RECORDED_DEFAULTS)}")
    return dict(defaults)


def _bundled() -> Preset:
    preset = Preset(
        name="bundled",
        summary="Drawn shapes, not photographs: a small ZegFormer and CLIP for trying things out offline on a CPU.",
        weights_from="In the package; trained by `maskmill train` of this project.",
        licence="Apache-2.0",
        weights=str(BUNDLED),
        clip=str(BUNDLED),
        prompts="single",
        calibration=RELEASED_CALIBRATION,
        short_side=128,
        max_long_side=512,
    )
    return replace(preset, **checkpoint_defaults(BUNDLED))


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _bundled(),
        _released(
            "zegformer-r101-coco",
            "zegformer_R101_bs32_60k_vit16_coco-stuff",
            "coco-stuff",
            "single",
            RELEASED_CALIBRATION,
            (640, MAX_LONG_SIDE),
        ),
        _released(
            "zegformer-r50-coco",
            "zegformer_R50_bs32_60k_vit16_coco-stuff",
            "coco-stuff",
            "imagenet_select",
            RELEASED_CALIBRATION,
            (640, MAX_LONG_SIDE),
        ),
        _released(
            "zegformer-r101-voc",
            "zegformer_R101_bs32_10k_vit16_voc",
            "voc",
            "single",
            RELEASED_CALIBRATION,
            (512, 2048),
        ),
        _released(
            "zegformer-r50-ade",
            "zegformer_R50_bs32_60k_vit16_ade20k-full-847-freq",
            "ade20k-full",
            "imagenet_select",
            0.0,
            (512, 2048),
        ),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A model as plain values, for sending to workers.

    What is None takes, when built, the value recorded with the given weights, else the preset's.

    weights: ZegFormer weights (``model.checkpoint.load_zegformer``). clip: any source of ``model.clip.load_clip``.
    region, fusion, prompts, calibration, query_segments, min_objectness, min_area, min_visible, attend_side,
    attend_layer: see ``ClassifierSettings``.
    short_side, max_long_side: see ``Proposer``; pixels. dtype: "float32", "bfloat16" or "float16"; "auto" stands for
        what ``model.precision`` finds, and has to be replaced by it before loading.
    device: "cpu", "cuda", or "auto" for cuda where there is one. compile: see ``model.compiling``.

    Raises ValueError for an unknown choice, naming the valid ones, and for a preset that needs weights given none.
    """

    preset: str = "bundled"
    weights: str | None = None
    clip: str | None = None
    region: str | None = None
    fusion: str | None = None
    prompts: str | None = None
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
        if self.weights is None:
            raise ValueError(f"Preset {self.preset!r} needs weights. {preset.weights_from} Config: {preset.config}")
        _ = self.settings  # validates

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


def load_proposer(spec: ModelSpec) -> Proposer:
    """Load the segmentation network."""
    network = load_zegformer(_weights(spec)).to(resolve_device(spec.device), _dtype(spec))
    assert spec.max_long_side is not None
    return Proposer(
        network,
        short_side=spec.short_side,
        max_long_side=spec.max_long_side,
        compiled=spec.compile,
        owns_network=True,
    )


def load_classifier(spec: ModelSpec, vocabulary: Vocabulary, cache_dir: str | Path | None = None) -> Classifier:
    """Load CLIP and embed the classes; ``cache_dir`` keeps the embeddings between runs.

    Classes nobody has flagged as seen or unseen are seen if the preset's model was trained with them.
    """
    assert spec.clip is not None
    clip = load_clip(spec.clip, resolve_device(spec.device), _dtype(spec))
    vocabulary = vocabulary.with_training_classes(training_classes(spec))
    return Classifier(clip, vocabulary, spec.settings, cache_dir=cache_dir, compiled=spec.compile)


def load_segmenter(spec: ModelSpec, vocabulary: Vocabulary, cache_dir: str | Path | None = None) -> Segmenter:
    """Load both halves."""
    return Segmenter(load_proposer(spec), load_classifier(spec, vocabulary, cache_dir))


def training_classes(spec: ModelSpec) -> tuple[str, ...]:
    """Return the names of the classes the model was trained with, empty if neither preset nor weights say."""
    recorded = checkpoint_seen_classes(_weights(spec))
    benchmark = PRESETS[spec.preset].benchmark
    return benchmark_seen_classes(benchmark) if not recorded and benchmark else recorded


def spec_fingerprint(spec: ModelSpec, vocabulary: Vocabulary) -> dict[str, str]:
    """Return, part by part, what labels depend on: short hashes of files and names, settings as text.

    The device is left out. Raises ValueError where there are no weights to hash.
    """
    classes = [
        (entry.names, entry.prompts, entry.seen, entry.distractor) for entry in vocabulary
    ]  # colours and groups change no label
    settings = {
        field.name: str(getattr(spec, field.name))
        for field in fields(spec)
        if field.name not in ("preset", "weights", "clip", "device")
    }
    assert spec.clip is not None
    return {
        "weights": _hash_files(_weights(spec), "zegformer.*"),
        "clip": _hash_clip(spec.clip),
        "vocabulary": hashlib.sha256(json.dumps(classes).encode()).hexdigest()[:16],
        **settings,
    }


def _weights(spec: ModelSpec) -> str:
    assert spec.weights is not None
    return spec.weights


def _hash_clip(source: str) -> str:
    path = Path(source)
    if path.exists():
        return _hash_files(source, "clip.*", "bpe.*")
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
