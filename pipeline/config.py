"""The settings of a labelling run, checked when they are built; the flags of ``maskmill label`` are made from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, create_model, field_validator, model_validator

from maskmill.model.choices import Device, Dtype
from maskmill.model.naming.settings import optional, out_of_range, setting_help, setting_types
from maskmill.pipeline.limits import MAX_IMAGE_BYTES, MAX_PIXELS
from maskmill.pipeline.uris import public_uri

Share = Annotated[float, Field(ge=0.0, le=1.0)]

OnChange = Literal["fail", "restart", "keep"]

# Settings that change what is written for an image. Two runs that differ in one of these must not share an output.
OUTPUT_SETTINGS = (
    "segments",
    "shard_size",
    "max_pixels",
    "sample_bits",
    "max_image_bytes",
    "image_column",
    "min_score",
    "min_stability",
    "min_area",
)

URIS = ("input", "output", "classes", "weights", "clip", "proposer")
"""Settings that may be addresses."""

# Help of the settings about lists (manifests, URI columns); every command that reads lists has these settings.
OWN_STORE_HELP = (
    "A store (s3://bucket) that is treated like the list's: its files may be named, and get the storage options."
)
ALLOW_LOCAL_HELP = "Let a list that lies elsewhere name files of this machine."
ALLOW_PRIVATE_HELP = "Let a list name web servers at private, loopback and link-local addresses."


class _Model(BaseModel):
    """What is labelled, with which model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str = Field(description="Images: tars, Parquet, a folder or a manifest; any fsspec URI, globs and {a..b}.")
    output: str = Field(description="Where the run's files go: a folder or any writable fsspec URI.")
    classes: str = Field(
        description="Class names: a file (text, .csv, .tsv, .json, .yaml), a comma-separated list, or protocol:NAME."
    )

    preset: str = Field("bundled", description="A whole model by name; `maskmill models` lists them.")
    proposer: str | None = Field(
        None,
        description="Where segments come from instead of the preset's: zegformer, felzenszwalb, hf:NAME or sam:NAME; "
        "NAME is a folder or a repository of the Hugging Face hub, REPOSITORY[@COMMIT].",
    )
    weights: str | None = Field(None, description="The proposer's weights instead of the preset's: file, folder, URI.")
    clip: str | None = Field(
        None, description="CLIP instead of the preset's: a file, a folder, a URI, an open_clip name or hf:REPOSITORY."
    )


_SET_BY_ANOTHER_FLAG = ("query_segments",)
"""Naming settings without a flag of their name: ``--segments query`` sets this one."""


def _naming_flags() -> dict[str, Any]:
    """Return pydantic's fields for the naming settings; None, the default, leaves a setting to the preset."""
    help_of = setting_help()
    return {
        name: (optional(kind), Field(None, description=help_of[name]))
        for name, kind in setting_types().items()
        if name not in _SET_BY_ANOTHER_FLAG
    }


def _in_range(cls: type[BaseModel], value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, (int, float)) and (problem := out_of_range(str(info.field_name), value)) is not None:
        raise ValueError(problem)
    return value


if TYPE_CHECKING:
    _WithNaming = _Model
else:
    _WithNaming = create_model(
        "_WithNaming",
        __base__=_Model,
        __validators__={"in_range": field_validator(*_naming_flags())(classmethod(_in_range))},
        **_naming_flags(),
    )


class LabelConfig(_WithNaming):
    """Settings of ``maskmill label``. Sizes in pixels or bytes, times in seconds, shares in 0..1.

    The fields of ``maskmill.model.naming.settings.NamingSettings`` are fields of it as well.
    """

    short_side: int | None = Field(None, ge=1, description="Images are resized to this short side for the model.")
    max_long_side: int | None = Field(None, ge=1, description="Images with a longer long side are made smaller.")
    dtype: Dtype | None = Field(
        None,
        description="Precision of the networks; default: half on GPUs, float32 on CPUs; auto: measured on CPUs too.",
    )
    device: Device = Field("auto", description="auto: cuda in actors that have a GPU.")
    compile: bool = Field(
        False,
        description="Compile CLIP's image tower and ZegFormer's network when an actor starts (needs a C++ compiler); "
        "this pays for few image sizes. Other proposers are not compiled.",
    )
    segments: Literal["semantic", "query"] = Field(
        "semantic", description="One segment per class of an image, or one per accepted query (instances)."
    )
    min_score: Share = Field(0.0, description="Segments with a lower score are left unlabelled.")
    min_stability: Share = Field(0.0, description="Segments with a lower stability are left unlabelled.")
    min_area: int = Field(
        0, ge=0, description="Skip masks with fewer pixels before CLIP, and leave such segments unlabelled."
    )

    shard_size: int = Field(1000, ge=1, description="Images per virtual shard of folders and manifests.")
    image_column: str | None = Field(None, description="Parquet column with image bytes or URIs; default: detected.")
    limit: int | None = Field(None, ge=1, description="Only the first N shards.")
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="Images with more pixels become errors and are not decoded.")
    sample_bits: int = Field(
        16, ge=8, le=16, description="Bits in use of 16-bit samples; 12 where a camera stored 12 bits in 16."
    )
    max_image_bytes: int = Field(MAX_IMAGE_BYTES, ge=1, description="Larger files become errors and are not read.")
    storage_option: dict[str, Any] = Field(
        default_factory=dict, description="key=value for fsspec (client_kwargs.endpoint_url=...); never stored."
    )
    own_store: list[str] = Field(default_factory=list, description=OWN_STORE_HELP)
    allow_local: bool = Field(False, description=ALLOW_LOCAL_HELP)
    allow_private: bool = Field(False, description=ALLOW_PRIVATE_HELP)

    fuse: Literal["auto", "on", "off"] = Field(
        "auto", description="Propose and classify in one actor; auto: on, unless the two pools are sized apart."
    )
    propose_actors: int | None = Field(None, ge=1, description="Actors that propose (fused: that do both).")
    propose_batch_size: int = Field(16, ge=1, description="Images per call of a proposing actor.")
    propose_cpus: float | None = Field(None, ge=0, description="CPUs reserved by each proposing actor.")
    propose_gpus: float | None = Field(None, ge=0, description="GPUs of each proposing actor; fractions share a GPU.")
    classify_actors: int | None = Field(None, ge=1, description="Actors that classify.")
    classify_batch_size: int = Field(16, ge=1, description="Images per call of a classifying actor.")
    classify_cpus: float | None = Field(None, ge=0, description="CPUs reserved by each classifying actor.")
    classify_gpus: float | None = Field(None, ge=0, description="GPUs of each classifying actor; fractions share one.")
    encode_batch_size: int = Field(64, ge=1, description="Images per encoding task.")
    task_cpus: float = Field(0.25, gt=0, description="CPUs reserved by each read, decode and encode task.")
    task_label: dict[str, Any] = Field(
        default_factory=dict,
        description="key=value, a label of nodes that read, decode and encode; default: any node.",
    )
    cpus: int | None = Field(None, ge=1, description="CPUs of the local Ray (default: all of this machine).")
    gpus: int | None = Field(None, ge=0, description="GPUs of the local Ray (default: all of this machine).")
    object_store_bytes: int | None = Field(None, ge=80_000_000, description="Object store of the local Ray.")
    address: str | None = Field(None, description="A running Ray cluster; default: RAY_ADDRESS, else a local Ray.")

    max_failed: Share = Field(0.01, description="Exit code 3 when more than this share of the images failed.")
    batch_timeout_s: float = Field(300.0, gt=0, description="A worker ends itself if a batch takes longer; see errors.")
    max_worker_deaths: int = Field(
        1000, ge=1, description="Give up when workers died this often; a row that kills its worker takes 4."
    )
    worker_memory_bytes: int | None = Field(
        None,
        ge=2**28,
        description="Memory a worker may take beyond its first batch's; a row that needs more fails.",
    )
    stall_timeout_s: float = Field(
        900.0, gt=0, validate_default=True, description="Give up when no image was finished for this many seconds."
    )
    on_change: OnChange = Field(
        "fail", description="If settings or input differ from the output's: refuse, start over, or label only the rest."
    )
    incremental: bool = Field(
        False, description="Label new and changed shards only (by marker, entity tag and size); report vanished ones."
    )
    if_nothing_new: Literal["ok", "exit-code"] = Field(
        "ok", description="With --incremental and nothing to label: exit code 0 (ok) or 4 (exit-code)."
    )
    price_per_gpu_hour: float | None = Field(
        None, ge=0, description="Price of one hour of one GPU; the run's price is this times its GPU-hours."
    )
    notify_url: str | None = Field(
        None, description="Address that gets the summary as JSON at the end (POST); never stored."
    )
    take_over: bool = Field(False, description="Write although another attempt holds the output's lease.")
    overwrite: bool = Field(False, description="Remove the run that the output holds and start over; other files stay.")
    dry_run: bool = Field(False, description="Check everything, say what would be done, and stop before Ray.")
    log_format: Literal["text", "json"] = Field("text", description="Form of the log lines.")

    @field_validator("stall_timeout_s")
    @classmethod
    def _outlasts_a_batch(cls, value: float, info: ValidationInfo) -> float:
        batch_timeout_s = info.data.get("batch_timeout_s", 0.0)
        if value <= batch_timeout_s:
            raise ValueError(f"must be more than batch_timeout_s ({batch_timeout_s:g}), or no row that hangs is found")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> LabelConfig:
        if self.incremental and self.limit is not None:
            raise ValueError("--incremental looks at the whole input to find what has vanished: drop --limit")
        if self.notify_url is not None and not self.notify_url.startswith(("http://", "https://")):
            # This check is written by hand because pydantic's message would repeat the address, which holds a secret.
            raise ValueError("--notify-url must begin with http:// or https://")
        if self.if_nothing_new != "ok" and not self.incremental:
            raise ValueError("--if-nothing-new is about --incremental runs: add --incremental or drop it")
        return self

    def naming(self) -> dict[str, Any]:
        """Return the naming settings that were chosen, for ``ModelSpec``; None leaves one to the preset."""
        return {name: getattr(self, name) for name in _naming_flags()} | {"query_segments": self.segments == "query"}

    def public(self) -> dict[str, Any]:
        """Return the settings as run.json stores them: no values of storage options, no webhook, no signatures."""
        return public_settings(self.model_dump())


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a run as they may be stored; see `LabelConfig.public`."""
    shown: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "storage_option":
            shown[name] = sorted(value)
        elif isinstance(value, list):
            shown[name] = [public_uri(each) for each in value]
        elif name != "notify_url":
            shown[name] = public_uri(value) if isinstance(value, str) else value
    return shown


def output_settings(config: LabelConfig) -> dict[str, Any]:
    """The part of the run's fingerprint that comes from settings other than the model's."""
    return {key: getattr(config, key) for key in OUTPUT_SETTINGS}


def default_output_settings() -> dict[str, Any]:
    """Return the same settings at their defaults."""
    return {key: LabelConfig.model_fields[key].get_default(call_default_factory=True) for key in OUTPUT_SETTINGS}
