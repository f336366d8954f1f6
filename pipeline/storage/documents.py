"""Parses and checks JSON that people and other programs wrote; an error names the file and the entry at fault."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator, TypeAdapter, ValidationError

from maskmill.pipeline.errors import UsageError

Model = TypeVar("Model")


def parse_json(data: bytes, adapter: TypeAdapter[Model], name: str, error: type[UsageError] = UsageError) -> Model:
    """Parse ``data`` and check it against the type of ``adapter``. The text may be UTF-8, UTF-16 or UTF-32.

    name: the file, for messages. Raises ``error``, naming the file and the first entry at fault, such as
    ``annotations[17].image_id``. Lists that may be long should be marked with pydantic's FailFast, so that a file
    that is wrong throughout makes one error and not millions.
    """
    try:
        encoding = json.detect_encoding(data)
        text: bytes | str = data if encoding == "utf-8" else data.decode(encoding)
        return adapter.validate_json(text)
    except UnicodeDecodeError as problem:
        raise error(f"{name} is no valid JSON: {problem}") from problem
    except ValidationError as problem:
        raise error(f"{name}{explain(problem)}") from problem


def explain(problem: ValidationError) -> str:
    """Say where the first entry at fault is and what is wrong with it; the text continues the name of the file."""
    first = problem.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("model_type", "dataclass_type"):
        message = "Must be a mapping of keys to values"
    if first["type"] == "json_invalid":
        return f" is no valid JSON: {message.removeprefix('Invalid JSON: ')}"
    place = entry_name(first["loc"])
    if first["type"] == "missing":
        return f": {place} is missing"
    if first["type"] == "extra_forbidden":
        return f": {place} is no key that is known"
    shown = "" if first["type"] == "value_error" else f", got {short(first['input'])}"
    where = f"{place}: " if place else ""
    return f": {where}{message[:1].lower()}{message[1:]}{shown}"


def entry_name(place: tuple[int | str, ...]) -> str:
    """Write the place of an entry as code would: ``annotations[17].image_id``."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def short(value: Any, most: int = 60) -> str:
    """A value for messages, cut to ``most`` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _identifier(value: Any) -> int | str:
    if (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value):
        return value
    raise ValueError(f"an id must be an integer or a text, got {short(value)}")


def _flag(value: Any) -> bool:
    if value is None or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise ValueError(f"must be 0 or 1, got {short(value)}")


Identifier = Annotated[int | str, PlainValidator(_identifier)]
"""An id as JSON files hold them: an integer or a text that is not empty; neither a truth value nor a fraction."""
Flag = Annotated[bool, PlainValidator(_flag)]
"""A yes or no that is written as 0, 1, false or true; null is no."""
