"""Whole models by name: which weights, which CLIP, which settings; and loading one from plain values."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from model.classifier import Classifier
from model.classifier_settings import RELEASED_CALIBRATION, ClassifierSettings, require_choice
from model.clip import load_clip
from model.resize import MAX_LONG_SIDE, InputSize
from model.scoring import FUSIONS_WITHOUT_QUERIES
from model.segmenter import DTYPES, Segmenter
from model.sources.source import ProposalSource, SourceName, describe_source, load_source
from model.training_classes import benchmark_seen_classes, checkpoint_description, checkpoint_seen_classes
from model.vocabulary import Vocabulary
from model.weight_files import CheckpointError

BUNDLED = Path(__file__).parent / "bundled"
OPENAI_VIT_B16 = "ViT-B-16-quickgelu:openai"
DEVICES = ("auto", "cpu", "cuda")

_BY_NAME = "Fetched by name from the Hugging Face hub when first used; `maskmill models --fetch` fetches them ahead."
_EOMT_LICENCE = "MIT (EoMT; its DINOv2 backbone is Apache-2.0); MIT (CLIP, by LAION)"

_RELEASED_FROM = (
    "The checkpoint folder linked from the README of the official repository, dingjiansw101/ZegFormer on GitHub: "
    "the file trained with the config named above (.pth or .pkl). CLIP: open_clip downloads OpenAI's ViT-B/16."
)
_RELEASED_LICENCE = "CC-BY-NC 4.0: non-commercial use only (ZegFormer weights); MIT (OpenAI's CLIP weights)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A model by name.

    summary: one line on what it knows. proposer: where segments come from (``model.sources.source.SourceName``).
    weights: path of its weights; None where the user brings them, or where the proposer's name says where they are.
    weights_from: where to get them. licence: of the weights. download: how much is fetched, None if nothing.
    config: the official training configuration, if released.
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
    proposer: str = "zegformer"
    weights: str | None = None
    download: str | None = None
    config: str | None = None
    benchmark: str | None = None
    region: str = "cropmask"
    fusion: str = "ensembling"
    image_prompts: str = "release"
    synonyms: str = "mean"
    pool_mask: str = "soft"
    attend_side: int | None = None


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


def _photo(name: str, summary: str, eomt: str, clip: str, download: str) -> Preset:
    """EoMT's panoptic masks, named by mask pooling of a convolutional CLIP and by EoMT where it knows the class."""
    return Preset(
        name=name,
        summary=summary,
        weights_from=_BY_NAME,
        licence=_EOMT_LICENCE,
        download=download,
        proposer=f"hf:tue-mps/{eomt}",
        clip=clip,
        region="pool",
        fusion="vocabulary",
        prompts="vild-14",
        image_prompts="vild-14",
        synonyms="max",
        pool_mask="binary",
        calibration=0.0,
        short_side=800,
        max_long_side=1333,
        attend_side=800,
    )


_CONVNEXT_L = "convnext_large_d_320:laion2b_s29b_b131k_ft_soup"
_CONVNEXT_B = "convnext_base_w_320:laion_aesthetic_s13b_b82k_augreg"

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _bundled(),
        _photo(
            "photo",
            "Photographs, any class names. EoMT-L at 640 pixels and ConvNeXt-L CLIP.",
            "coco_panoptic_eomt_large_640",
            _CONVNEXT_L,
            "2.7 GB",
        ),
        _photo(
            "photo-small",
            "Photographs on small machines. EoMT-B at 640 pixels and ConvNeXt-B CLIP.",
            "coco_panoptic_eomt_base_640_2x",
            _CONVNEXT_B,
            "1.1 GB",
        ),
        _photo(
            "photo-large",
            "Photographs with small things. EoMT-L at 1280 pixels, four times as slow, and ConvNeXt-L CLIP.",
            "coco_panoptic_eomt_large_1280",
            _CONVNEXT_L,
            "2.7 GB",
        ),
        Preset(
            name="photo-parts",
            summary="Parts of things, and pictures unlike photographs. SAM 2.1 (small) and ViT-B/16 CLIP; slow.",
            weights_from=_BY_NAME,
            licence="Apache-2.0 (SAM 2.1); MIT (CLIP, by DataComp)",
            download="0.8 GB",
            proposer="sam:facebook/sam2.1-hiera-small",
            clip="ViT-B-16:datacomp_xl_s13b_b90k",
            region="cropmask",
            fusion="clip",
            prompts="vild-14",
            image_prompts="vild-14",
            synonyms="max",
            calibration=0.0,
            short_side=800,
            max_long_side=1333,
        ),
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

    proposer: where segments come from (``model.sources.source.SourceName``). weights: its weights, a file or a folder;
        None for a proposer whose name says where they are. clip: any source of ``model.clip.load_clip``, or
        ``hf:REPOSITORY@COMMIT`` of open_clip's.
    region, fusion, prompts, image_prompts, synonyms, pool_mask, calibration, query_segments, min_objectness, min_area,
    min_visible, attend_side, attend_layer: see ``ClassifierSettings``.
    short_side, max_long_side: see ``Proposer``; pixels. dtype: "float32", "bfloat16" or "float16"; "auto" stands for
        what ``model.precision`` finds, and has to be replaced by it before loading.
    device: "cpu", "cuda", or "auto" for cuda where there is one. compile: see ``model.compiling``.

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
    """Load the source of segments; its weights must lie on this machine (``model.fetching``)."""
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


def load_segmenter(spec: ModelSpec, vocabulary: Vocabulary, cache_dir: str | Path | None = None) -> Segmenter:
    """Load both halves."""
    return Segmenter(load_proposer(spec), load_classifier(spec, vocabulary, cache_dir))


def training_classes(spec: ModelSpec) -> tuple[str, ...]:
    """Return the names of the classes the model was trained with, empty if neither preset nor weights say."""
    if spec.source.kind != "zegformer":
        return ()
    recorded = checkpoint_seen_classes(_weights(spec))
    benchmark = PRESETS[spec.preset].benchmark
    return benchmark_seen_classes(benchmark) if not recorded and benchmark else recorded


ALWAYS_RECORDED = (
    "region",
    "fusion",
    "prompts",
    "calibration",
    "short_side",
    "max_long_side",
    "dtype",
    "compile",
    "query_segments",
    "min_objectness",
    "min_area",
    "min_visible",
    "attend_side",
    "attend_layer",
)
"""Settings that a fingerprint has held from the first version on, whatever their value. Later ones are recorded only
where they differ from their default, so that a setting added today does not make every older run a changed one."""

UNRECORDED = {"proposer": "zegformer", "image_prompts": "release", "synonyms": "mean", "pool_mask": "soft"}
"""What a missing part of a fingerprint means, for settings whose default comes from the preset."""


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
        and (field.name in ALWAYS_RECORDED or getattr(spec, field.name) != UNRECORDED.get(field.name, field.default))
    }
    assert spec.clip is not None
    return {
        "weights": _hash_weights(spec),
        "clip": _hash_clip(spec.clip),
        "vocabulary": hashlib.sha256(json.dumps(classes).encode()).hexdigest()[:16],
        **settings,
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
