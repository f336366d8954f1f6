"""Sizes of a ZegFormer as plain data: what the weights cannot say alone, and what a JSON file beside them holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from maskmill.model.choices import require_choice

Block = Literal["basic", "bottleneck"]
Norm = Literal["frozen", "batch"]
MaskStride = Literal[2, 4]
MemoryFeature = Literal["res2", "res3", "res4", "res5", "p2", "p3", "p4", "p5"]

STAGES: tuple[Literal["res2", "res3", "res4", "res5"], ...] = ("res2", "res3", "res4", "res5")
"""Backbone features, strides 4, 8, 16 and 32."""

RELEASED_TEMPERATURE = 0.01

NORM_GROUPS = 32
"""Groups of every GroupNorm of the pixel decoder (the release's value)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """A residual network with stem stride 4. The defaults are ResNet-50.

    block: "bottleneck" (1x1, 3x3, 1x1; stride in the 3x3) or "basic" (3x3, 3x3).
    layers: blocks in res2, res3, res4, res5.
    stem_channels: channels of the 7x7 stem convolution.
    stage_channels: output channels of res2, res3, res4, res5.
    width_per_group: channels of the 3x3 convolution in res2's bottlenecks, doubled at each later stage; "basic" blocks
        have none and ignore it.
    norm: "frozen" keeps batch-norm statistics and affine constants (the release), "batch" trains them.
    """

    block: Block = "bottleneck"
    layers: tuple[int, ...] = (3, 4, 6, 3)
    stem_channels: int = 64
    stage_channels: tuple[int, ...] = (256, 512, 1024, 2048)
    width_per_group: int = 64
    norm: Norm = "frozen"

    def __post_init__(self) -> None:
        require_choice("block", self.block, get_args(Block))
        require_choice("norm", self.norm, get_args(Norm))
        require_positive(self, "stem_channels", "width_per_group")
        for name in ("layers", "stage_channels"):
            value = tuple(getattr(self, name))
            if len(value) != len(STAGES) or any(type(number) is not int or number < 1 for number in value):
                raise ValueError(f"{name} must be {len(STAGES)} positive integers, one per stage; got {value}")
            object.__setattr__(self, name, value)
        if self.block == "bottleneck":
            for stage, channels, width in zip(STAGES, self.stage_channels, self.bottleneck_widths, strict=True):
                if channels % 4 or (256 * width) % channels:
                    raise ValueError(
                        f"a bottleneck of {width} channels does not fit stage_channels {channels} at {stage}: stage "
                        "channels must be a multiple of 4 and divide 256 x the bottleneck width"
                    )

    @property
    def bottleneck_widths(self) -> tuple[int, ...]:
        """Channels of the 3x3 convolutions in the bottlenecks of each stage."""
        return tuple(self.width_per_group * 2**stage for stage in range(len(STAGES)))

    @classmethod
    def resnet(cls, depth: Literal[50, 101]) -> BackboneConfig:
        """Return ResNet-50 or ResNet-101 as released."""
        layers = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
        require_choice("depth", depth, tuple(layers))
        return cls(layers=layers[depth])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return json_values(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BackboneConfig:
        """Build from ``to_dict``'s values; unknown keys are a ValueError that lists the valid ones."""
        reject_unknown_keys(cls, values)
        return cls(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class ZegFormerConfig:
    """A ZegFormer (paper section 3). The defaults are the released R-50 model.

    conv_dim: channels of the pixel decoder, a multiple of 32.
    mask_dim: channels of ``mask_features`` and of each query's mask embedding.
    hidden_dim: width of the transformer.
    heads: attention heads, a divisor of ``hidden_dim``.
    feedforward_dim: hidden width of the transformer's feed-forward networks.
    encoder_layers, decoder_layers: transformer layers; the release has no encoder layer.
    queries: number of segments proposed per image.
    embedding_dim: size D of the text embeddings the queries are compared with.
    dropout: rate inside the transformer while training.
    memory_feature: what the decoder attends to: a backbone feature (released: "res5") or an FPN level ("p2".."p5").
    masked_attention: let each decoder layer after the first look only where the previous layer's mask is
        (Mask2Former); off in the release.
    mask_stride: of the masks; 2 adds a level from the backbone's stem to the pixel decoder, 4 is the release.
    region_names: queries are named by the region under their mask as well, not by their state alone (the release).
    temperature: cosine similarities of queries and class names are divided by this to become logits. The released 0.01
        suits names that are all much alike, as those of a large CLIP are.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    conv_dim: int = 256
    mask_dim: int = 256
    hidden_dim: int = 256
    heads: int = 8
    feedforward_dim: int = 2048
    encoder_layers: int = 0
    decoder_layers: int = 6
    queries: int = 100
    embedding_dim: int = 512
    dropout: float = 0.1
    memory_feature: MemoryFeature = "res5"
    masked_attention: bool = False
    mask_stride: MaskStride = 4
    region_names: bool = False
    temperature: float = RELEASED_TEMPERATURE

    def __post_init__(self) -> None:
        sizes = (
            "conv_dim",
            "mask_dim",
            "hidden_dim",
            "heads",
            "feedforward_dim",
            "decoder_layers",
            "queries",
            "embedding_dim",
        )
        require_positive(self, *sizes)
        require_conv_dim(self.conv_dim, self.mask_stride)
        require_choice("memory_feature", self.memory_feature, get_args(MemoryFeature))
        if type(self.encoder_layers) is not int or self.encoder_layers < 0:
            raise ValueError(f"encoder_layers must be an integer >= 0; got {self.encoder_layers!r}")
        if self.hidden_dim % 4:
            raise ValueError(f"hidden_dim must be a multiple of 4 (sine and cosine per axis); got {self.hidden_dim}")
        if self.hidden_dim % self.heads:
            raise ValueError(f"heads must divide hidden_dim {self.hidden_dim}; got {self.heads}")
        require_temperature(self.temperature)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in 0..1, 1 excluded; got {self.dropout}")

    @property
    def memory_channels(self) -> int:
        """Channels of the feature the transformer reads."""
        if self.memory_feature in STAGES:
            return self.backbone.stage_channels[STAGES.index(self.memory_feature)]
        return self.conv_dim

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return json_values(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ZegFormerConfig:
        """Build from ``to_dict``'s values; unknown keys are a ValueError that lists the valid ones."""
        reject_unknown_keys(cls, values)
        backbone = BackboneConfig.from_dict(values.get("backbone", {}))
        return cls(**{**values, "backbone": backbone})


def require_conv_dim(conv_dim: int, mask_stride: int) -> None:
    """Raise ValueError unless ``conv_dim`` fits the pixel decoder's norms and ``mask_stride`` is one there is."""
    require_choice("mask_stride", mask_stride, get_args(MaskStride))
    multiple = NORM_GROUPS if mask_stride == 4 else 2 * NORM_GROUPS
    if conv_dim % multiple:
        raise ValueError(f"conv_dim must be a multiple of {multiple} with mask_stride {mask_stride}; got {conv_dim}")


def require_temperature(temperature: float) -> None:
    """Raise ValueError unless ``temperature`` is above 0 and at most 1."""
    if not 0 < temperature <= 1:
        raise ValueError(f"temperature must be in 0..1, 0 excluded; got {temperature}")


def json_values(config: Any) -> dict[str, Any]:
    """Return a configuration as nested plain values that JSON can hold."""
    return asdict(config, dict_factory=lambda items: {k: list(v) if isinstance(v, tuple) else v for k, v in items})


def reject_unknown_keys(cls: Any, values: Mapping[str, Any]) -> None:
    """Raise ValueError that lists the valid keys if ``values`` has one that ``cls`` has no field for."""
    known = [entry.name for entry in fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"unknown {cls.__name__} keys {', '.join(unknown)}; valid keys: {', '.join(known)}")


def require_positive(config: Any, *names: str) -> None:
    """Raise ValueError unless the fields ``names`` of ``config`` are integers above 0."""
    for name in names:
        value = getattr(config, name)
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a positive integer; got {value!r}")
