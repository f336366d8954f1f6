"""Turns the texts of the settings into what they name: the model's specification and the vocabulary."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields

from maskmill.model import ModelSpec, Vocabulary
from maskmill.model.capabilities import check_capabilities
from maskmill.model.fetching import pinned_spec
from maskmill.model.spec import training_classes
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.run.class_files import parse_classes
from maskmill.pipeline.stages.weights import local_spec
from maskmill.pipeline.storage.addresses import absolute, absolute_if_local

FILE_SETTINGS = ("classes", "weights", "clip")
"""Settings that may name a file or folder."""


def with_absolute_addresses(config: LabelConfig) -> LabelConfig:
    """Return the settings with absolute paths for all local addresses, since these identify the run and are stored."""
    places = {name: absolute(getattr(config, name)) for name in ("input", "output")}
    files = {
        name: absolute_if_local(value)
        for name in FILE_SETTINGS
        # A folder of the current directory may have the name of a class, so only a file counts as a list of classes.
        if (value := getattr(config, name)) is not None and (name != "classes" or os.path.isfile(value))
    }
    if config.proposer is not None:
        kind, _, name = config.proposer.partition(":")
        if os.path.isdir(name):
            files["proposer"] = f"{kind}:{absolute(name)}"
    return config.model_copy(update={**places, **files})


def model_spec(config: LabelConfig, recorded: Mapping[str, str] | None = None) -> ModelSpec:
    """Return the model that the settings ask for, with a commit for everything named on the Hugging Face hub.

    recorded: the fingerprint of an earlier run in the same output; its commits are kept. Raises UsageError for a choice
    that the model does not have, and for a name that the hub does not have.
    """
    settings = {field.name: getattr(config, field.name) for field in fields(ModelSpec) if field.name != "naming"}
    if config.dtype is None:
        # A run goes on in the precision that it began with, also one from before the default followed the device.
        settings["dtype"] = (recorded or {}).get("dtype") or _default_precision(config)
    try:
        return pinned_spec(ModelSpec(**settings, **config.naming()), recorded)
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error


def _default_precision(config: LabelConfig) -> str:
    """Return "auto" for a run on GPUs, whose kind is known only where its actors run, else "float32"."""
    if config.device == "cpu" or config.gpus == 0:
        return "float32"
    asked = (config.gpus, config.propose_gpus, config.classify_gpus)
    if config.device == "cuda" or any(asked):
        return "auto"
    import torch

    return "auto" if torch.cuda.is_available() and None in asked else "float32"


def check_model(config: LabelConfig, spec: ModelSpec) -> None:
    """Raise UsageError where the parts of the model cannot do what the settings ask for."""
    try:
        check_capabilities(local_spec(spec, config.storage_option))
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error


def read_vocabulary(config: LabelConfig, spec: ModelSpec) -> Vocabulary:
    """Return the classes of ``config.classes``; a class without a flag is seen if the model was trained with it.

    Raises UsageError for a missing file, for no class, and for a class given twice.
    """
    try:
        vocabulary = parse_classes(config.classes, config.storage_option)
    except (ValueError, UsageError) as error:
        raise UsageError(f"classes: {error}") from error
    return vocabulary.with_training_classes(training_classes(local_spec(spec, config.storage_option)))
