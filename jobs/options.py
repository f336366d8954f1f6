"""Makes the flags of a command from a pydantic model, and the model from flags, ``--set`` and ``--config``."""

from __future__ import annotations

import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import typer
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from maskmill.pipeline.errors import UsageError

ModelT = TypeVar("ModelT", bound=BaseModel)

CONFIG_HELP = "YAML file with any of these settings, by the flags' names."
SET_HELP = "A setting as KEY=VALUE, may be repeated; wins over --config, and explicit flags win over both."


def build_command(
    model: type[ModelT],
    run: Callable[[ModelT], int],
    *,
    positional: Sequence[str] = (),
    name: str,
    help: str,  # noqa: A002 (the name that typer uses)
) -> Callable[..., None]:
    """Return a function that typer can register as a command: ``app.command()(build_command(...))``.

    Every field of ``model`` becomes a flag in kebab-case (``bool``: ``--x/--no-x``; ``dict``: repeated ``K=V``;
    ``list``: repeated values), except those in ``positional``, which become arguments in that order. A field's
    description is its help. ``run`` gets the validated model and returns the exit code. Wrong input raises UsageError.
    """

    def command(**values: Any) -> None:
        config_file, settings = values.pop("config"), values.pop("set")
        raise typer.Exit(run(resolve(model, config_file=config_file, settings=settings or (), flags=values)))

    parameters = [_argument(field, model.model_fields[field]) for field in positional]
    parameters += [_option(field, info) for field, info in model.model_fields.items() if field not in positional]
    parameters += [
        _parameter("config", Path | None, typer.Option("--config", metavar="FILE", help=CONFIG_HELP)),
        _parameter("set", list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)),
    ]
    command.__name__, command.__doc__ = name, help
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def resolve(
    model: type[ModelT], *, config_file: Path | None, settings: Iterable[str], flags: Mapping[str, Any]
) -> ModelT:
    """Build ``model`` from, in rising precedence, its defaults, a YAML file, ``KEY=VALUE`` settings and flags.

    flags: field name -> value; None and empty lists mean "not given". The entries of dict fields are merged; other
    values replace earlier ones. Raises UsageError that names the key, where it was given, and the valid values.
    """
    layers = [
        (_field_name(model, key, f"in {config_file}"), f"in {config_file}", value)
        for key, value in _read_config(config_file).items()
    ]
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise UsageError(f"--set takes KEY=VALUE, not {setting!r}")
        field = _field_name(model, key.strip(), "in --set")
        layers.append((field, "in --set", _parse_setting(model.model_fields[field], field, text)))
    for field, value in flags.items():
        if value is not None and value != []:
            is_dict = _container(model.model_fields[field]) is dict
            layers.append((field, "", _pairs(value, _flag(field)) if is_dict else value))

    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for field, origin, value in layers:
        earlier = merged.get(field)
        merged[field] = {**earlier, **value} if isinstance(earlier, dict) and isinstance(value, dict) else value
        origins[field] = origin
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise UsageError("; ".join(_explain(model, detail, origins) for detail in error.errors())) from error


class _StrictLoader(yaml.SafeLoader):
    """Loads YAML safely. A key given twice is an error; on, off, yes and no are words, as in YAML 1.2."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (a class attribute of the loader)
        first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:bool"]
        for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    from maskmill.pipeline.storage.text_files import decode_text

    try:
        text = decode_text(path.read_bytes(), f"--config: {path}")
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise UsageError(f"--config: cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"--config: {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"--config: {path} must hold `key: value` lines, not a {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def _field_name(model: type[BaseModel], key: str, origin: str) -> str:
    field = key.replace("-", "_")
    if field in model.model_fields:
        return field
    valid = sorted(_kebab(name) for name in model.model_fields)
    close = difflib.get_close_matches(_kebab(key), valid, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise UsageError(f"unknown key {key!r} {origin}{hint} Valid keys: {', '.join(valid)}")


def _parse_setting(info: FieldInfo, field: str, text: str) -> Any:
    """Return the value of ``--set field=text``; ``null`` is None for optional fields, containers are as on the flag."""
    if text in ("null", "") and type(None) in typing.get_args(info.annotation):
        return None
    kind = _container(info)
    if kind is dict:
        return _pairs([text], f"--set {field}")
    return [text] if kind is list else text


def _pairs(items: Iterable[str], origin: str) -> dict[str, str]:
    pairs = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator or not key:
            # Do not repeat the text, which may be a secret that was given without its key.
            raise UsageError(f"{origin} takes K=V")
        pairs[key] = value
    return pairs


def _explain(model: type[BaseModel], detail: Any, origins: Mapping[str, str]) -> str:
    """Return a pydantic error in the words of the command line."""
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return str(message)
    field = str(detail["loc"][0])
    info, origin = model.model_fields[field], origins.get(field, "")
    where = f"{_kebab(field)} {origin}" if origin else _flag(field)
    if detail["type"] == "missing":
        return f"{_kebab(field)} is missing: give it on the command line or in --config"
    if _container(info) is dict:
        return f"{where}: {message}"  # without the value, which may be a secret
    if detail["type"] == "literal_error":
        return f"{where}: {detail['input']!r} is not known. Choose from: {', '.join(_choices(info))}"
    return f"{where}: {message[:1].lower()}{message[1:]}, got {detail['input']!r}"


def _kebab(field: str) -> str:
    return field.replace("_", "-")


def _flag(field: str) -> str:
    return "--" + _kebab(field)


def _parameter(name: str, annotation: Any, info: Any) -> inspect.Parameter:
    # Every default is None, so that a flag that is not given differs from one that is given with the default value.
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation, info])


def _argument(field: str, info: FieldInfo) -> inspect.Parameter:
    # Make the argument optional, because --config may give it; the model's check finds a missing one.
    help_ = typer.Argument(metavar=_kebab(field).upper(), help=info.description, show_default=False)
    return _parameter(field, str | None, help_)


def _option(field: str, info: FieldInfo) -> inspect.Parameter:
    kind, choices = _container(info), _choices(info)
    default = _shown_default(info.get_default(call_default_factory=True))
    shown: dict[str, Any] = {"help": f"{info.description or ''}{default}"}
    if kind is bool:
        return _parameter(field, bool | None, typer.Option(f"{_flag(field)}/--no-{_kebab(field)}", **shown))
    shown["metavar"] = "K=V" if kind is dict else "|".join(choices) or _METAVARS.get(_alternatives(info)[0], "TEXT")
    if choices:
        shown["autocompletion"] = lambda: choices
    # Take text for all types of fields: pydantic then checks flags, --set and YAML alike, with the same messages.
    annotation = list[str] | None if kind in (dict, list) else str | None
    return _parameter(field, annotation, typer.Option(_flag(field), **shown))


_METAVARS = {int: "N", float: "X", Path: "PATH"}


def _shown_default(value: Any) -> str:
    if isinstance(value, bool):
        return f"  [default: {'on' if value else 'off'}]"
    return f"  [default: {value}]" if isinstance(value, (str, int, float)) and value != "" else ""


def _alternatives(info: FieldInfo) -> list[Any]:
    """Return the types that a field allows, without None."""
    is_union = typing.get_origin(info.annotation) in (Union, types.UnionType)
    parts = typing.get_args(info.annotation) if is_union else (info.annotation,)
    bare = [typing.get_args(part)[0] if typing.get_origin(part) is Annotated else part for part in parts]
    return [part for part in bare if part is not type(None)]


def _container(info: FieldInfo) -> type | None:
    """Return ``bool``, ``dict`` or ``list`` if the field is one of these, whose flags have other forms; else None."""
    kind = _alternatives(info)[0]
    origin = typing.get_origin(kind) or kind
    if origin in (list, tuple, set, frozenset):
        return list
    return origin if origin in (bool, dict) else None


def _choices(info: FieldInfo) -> list[str]:
    return [
        str(choice)
        for kind in _alternatives(info)
        if typing.get_origin(kind) is Literal
        for choice in typing.get_args(kind)
    ]
