"""From the configuration's texts to the objects they name: the model's specification and the vocabulary."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from typing import Any

import yaml

from model import ModelSpec, Vocabulary
from model.presets import training_classes
from pipeline.addresses import absolute, absolute_if_local
from pipeline.config import LabelConfig
from pipeline.errors import UsageError
from pipeline.storage import is_missing, open_filesystem, read_bytes
from pipeline.weights import local_spec

MODEL_SETTINGS = (
    "preset",
    "weights",
    "clip",
    "region",
    "fusion",
    "prompts",
    "calibration",
    "short_side",
    "max_long_side",
    "dtype",
    "device",
    "compile",
    "min_objectness",
    "min_area",
    "min_visible",
    "attend_side",
    "attend_layer",
)
FILE_SETTINGS = ("classes", "weights", "clip")
"""Settings that may name a file or folder."""
CLASS_FILES = (".txt", ".json", ".yaml", ".yml")


def with_absolute_addresses(config: LabelConfig) -> LabelConfig:
    """The same settings with every local address as an absolute path: they identify the run and are kept in it."""
    places = {name: absolute(getattr(config, name)) for name in ("input", "output")}
    files = {name: absolute_if_local(value) for name in FILE_SETTINGS if (value := getattr(config, name)) is not None}
    return config.model_copy(update={**places, **files})


def model_spec(config: LabelConfig) -> ModelSpec:
    """The model the configuration asks for. Raises UsageError for a choice the model does not have."""
    settings = {name: getattr(config, name) for name in MODEL_SETTINGS}
    try:
        return ModelSpec(**settings, query_segments=config.segments == "query")
    except ValueError as error:
        raise UsageError(str(error)) from error


def read_vocabulary(config: LabelConfig, spec: ModelSpec) -> Vocabulary:
    """The classes of ``config.classes``; those not flagged are seen if the model was trained with them.

    Raises UsageError where there is no such file, or no class, or the same class twice.
    """
    try:
        vocabulary = _parse(config.classes, config.storage_option)
        return vocabulary.with_training_classes(training_classes(local_spec(spec, config.storage_option)))
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"classes: {error}") from error


def _parse(classes: str, storage_option: Mapping[str, Any]) -> Vocabulary:
    suffix = posixpath.splitext(classes)[1].lower()
    if suffix not in CLASS_FILES and "://" not in classes:
        return Vocabulary([name.strip() for name in classes.split(",")])
    text = _read_text(classes, storage_option)
    if suffix == ".json":
        return Vocabulary.from_data(json.loads(text))
    if suffix in (".yaml", ".yml"):
        return Vocabulary.from_data(yaml.safe_load(text))
    return Vocabulary.from_text(text)


def _read_text(uri: str, storage_option: Mapping[str, Any]) -> str:
    fs, path = open_filesystem(uri, storage_option)
    try:
        return read_bytes(fs, path).decode("utf-8-sig")
    except OSError as error:
        if is_missing(error):
            raise UsageError(f"classes: there is no file {uri}") from error
        raise
