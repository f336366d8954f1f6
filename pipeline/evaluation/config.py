"""The settings of an evaluation, validated when they are built; the command's flags are made from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from maskmill.pipeline.config import ALLOW_LOCAL_HELP, ALLOW_PRIVATE_HELP, OWN_STORE_HELP
from maskmill.pipeline.evaluation.boundary import TOLERANCE
from maskmill.pipeline.evaluation.bundled_protocols import bundled_protocols
from maskmill.pipeline.evaluation.protocol import IdKind, Setting

SwappedSides = Literal["refuse", "skip", "right", "left", "resize"]


class EvaluationConfig(BaseModel):
    """Settings of ``maskmill evaluate``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: str = Field(description="What to evaluate: a run's output, a COCO results JSON, or a folder of label maps.")
    ground_truth: str = Field(
        description="Label maps (tars, folders; x.seg.png beside the images or a parallel tree), Parquet, or COCO JSON."
    )
    protocol: str = Field(description=f"{', '.join(bundled_protocols())}, or a JSON or YAML file.")
    setting: Setting = Field(
        "gzs3", description="All classes (gzs3), or only the unseen ones, for labels made from their names alone (zs3)."
    )
    ground_truth_ids: IdKind = Field(
        "evaluation", description="Values in ground truth: the protocol's ids, or the dataset's original ones (raw)."
    )
    reduce_zero_label: bool = Field(False, description="Ground truth counts from one; zero is ignored.")
    ground_truth_suffix: str = Field("", description="Removed from the ends of ground truth names before matching.")
    prediction_suffix: str = Field("", description="Removed from the ends of the predictions' names before matching.")
    ground_truth_column: str | None = Field(None, description="Parquet column with label maps; found if not given.")
    panoptic_maps: str | None = Field(
        None, description="Folder of the PNGs of a panoptic JSON (default: named like it, without .json)."
    )
    prediction_ids: IdKind = Field("evaluation", description="Values in predicted label maps and results files.")
    panoptic: Literal["auto", "on", "off"] = Field(
        "auto", description="Panoptic quality; auto: for labels with several segments of a class in one image."
    )
    boundary: bool = Field(True, description="Boundary F-measure.")
    boundary_tolerance: Annotated[float, Field(gt=0, le=0.1)] = Field(
        TOLERANCE, description="Share of the image diagonal within which a border counts as found."
    )
    allow_missing: bool = Field(
        False, description="Evaluate the images that both sides have; count and name the missing and ambiguous ones."
    )
    swapped_sides: SwappedSides = Field(
        "refuse",
        description="Ground truth as high as its image is wide and the other way round (EXIF): refuse it, skip it, "
        "turn it right (orientation 6) or left (8), or resize it.",
    )
    compare: str | None = Field(None, description="Another evaluated output to compare with this one, image by image.")
    resamples: int = Field(1000, ge=100, description="Bootstrap resamples of a comparison.")
    results: str | None = Field(None, description="Where the figures go (default: OUTPUT/evaluation).")
    shard_size: int = Field(1000, ge=1, description="Images per unit of work where the input has no shards.")
    workers: int | None = Field(None, ge=1, description="Units of work at once (default: one per CPU).")
    address: str | None = Field(None, description="A running Ray cluster; default: RAY_ADDRESS, else a local Ray.")
    storage_option: dict[str, str] = Field(default_factory=dict, description="Passed to fsspec; never stored.")
    own_store: list[str] = Field(default_factory=list, description=OWN_STORE_HELP)
    allow_local: bool = Field(False, description=ALLOW_LOCAL_HELP)
    allow_private: bool = Field(False, description=ALLOW_PRIVATE_HELP)
    overwrite: bool = Field(False, description="Compute every shard again.")
