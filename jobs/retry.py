"""``maskmill retry``: labels the failed images of a run again."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from maskmill.jobs.label import execute
from maskmill.jobs.options import build_command
from maskmill.pipeline.config import LabelConfig

ERROR_KEYS = ("stage", "error_class")


class RetryConfig(BaseModel):
    """Settings of ``maskmill retry``; all others come from the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: str = Field(description="The run whose failed images are to be labelled again.")
    errors: dict[str, str] = Field(
        default_factory=dict, description="Only these errors: stage=decode, error_class=truncated; default: all."
    )
    input: str | None = Field(None, description="The run's input again, if its address holds a signature.")
    storage_option: dict[str, Any] = Field(
        default_factory=dict, description="As for `maskmill label`; runs do not store them."
    )
    address: str | None = Field(None, description="A running Ray cluster; default: RAY_ADDRESS, else a local Ray.")
    max_failed: float | None = Field(None, ge=0, le=1, description="Exit code 3 above this share; default: the run's.")
    take_over: bool = Field(False, description="Write although another attempt holds the output's lease.")
    dry_run: bool = Field(False, description="Say what would be done, and stop before Ray.")
    log_format: Literal["text", "json"] = Field("text", description="Form of the log lines.")

    @field_validator("errors")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(value) - set(ERROR_KEYS))
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is not known. Choose from: {', '.join(ERROR_KEYS)}")
        return value


def run_retry(config: RetryConfig) -> int:
    """Plan the retry, execute it, report how it ended; return the exit code."""
    from maskmill.pipeline.run.plan import plan_retry

    return execute(plan_retry(stored_config(config), config.errors.get("stage"), config.errors.get("error_class")))


def stored_config(config: RetryConfig) -> LabelConfig:
    """Return the settings that the run was started with, changed by those of this call."""
    from maskmill.pipeline.output.folder import RUN_FILE, Output, no_run

    run = Output(config.output, config.storage_option).read_json(RUN_FILE)
    if run is None:
        raise no_run(config.output)
    now = config.model_dump(exclude={"errors", "max_failed"} | ({"input"} if config.input is None else set()))
    max_failed = run["config"]["max_failed"] if config.max_failed is None else config.max_failed
    plain = {
        "max_failed": max_failed,
        "limit": None,  # a later call may have labelled more shards
        "overwrite": False,
        "on_change": "fail",
        "incremental": False,
        "if_nothing_new": "ok",
    }
    return LabelConfig(**{**run["config"], **now, **plain})


retry = build_command(
    RetryConfig,
    run_retry,
    positional=("output",),
    name="retry",
    help="Label again the images in the errors tables of OUTPUT and repair their shards.",
)
