"""Reads named configurations of the trainings, and applies settings from the command line to them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from maskmill.pipeline.errors import UsageError

_RECIPES = Path(__file__).parent / "recipes"
ConfigT = TypeVar("ConfigT", bound=BaseModel)


def recipe_names(kind: str) -> list[str]:
    """Return the named configurations of "grouping", "clip" or "baseline"."""
    return sorted(path.stem.removeprefix(f"{kind}-") for path in _RECIPES.glob(f"{kind}-*.yaml"))


def load_config(kind: str, name: str, model: type[ConfigT], settings: Iterable[str] = ()) -> ConfigT:
    """Return the configuration ``name``, a named one or a YAML file, with ``KEY.KEY=VALUE`` settings applied.

    Raises UsageError for an unknown name, key or value, saying what is valid.
    """
    values = _read(kind, name)
    for setting in settings:
        _apply(values, setting)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError("; ".join(_explain(model, detail) for detail in error.errors())) from error


def _read(kind: str, name: str) -> dict[str, Any]:
    path = _RECIPES / f"{kind}-{name}.yaml"
    if not path.exists():
        path = Path(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(recipe_names(kind))
        raise UsageError(f"--config: {name!r} is neither a readable file nor one of: {known}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config: {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--config: {path} must hold `key: value` lines")
    return values


def _apply(values: dict[str, Any], setting: str) -> None:
    key, separator, text = setting.partition("=")
    if not separator or not key:
        raise UsageError(f"--set takes KEY=VALUE, not {setting!r}")
    *sections, last = key.replace("-", "_").split(".")
    section = values
    for name in sections:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise UsageError(f"--set {key}: {name} is a single value, it has no keys")
    try:
        section[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {key}: {text!r} is not a YAML value") from error


def _explain(model: type[BaseModel], detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown key {where}; valid keys there: {', '.join(_valid_keys(model, detail['loc'][:-1]))}"
    if detail["type"] == "missing":
        return f"{where} is missing: give it in --config or by --set {where}=..."
    return f"{where}: {detail['msg']}, got {detail['input']!r}"


def _valid_keys(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    for part in location:
        annotation = model.model_fields[part].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return sorted(model.model_fields)
