"""Describes and checks the contents of a protocol file in JSON or YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, ValidationError

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.storage.documents import explain

LABEL_VALUES = 65536
_RESERVED_GROUPS = ("harmonic",)  # the harmonic mean has this key in evaluation.json


def check_protocol(data: Any, name: str) -> ProtocolFile:
    """Check a parsed file. Raises UsageError naming the wrong entry."""
    try:
        return ProtocolFile.model_validate(_with_mappings(data))
    except ValidationError as error:
        raise UsageError(f"protocol {name!r}{explain(error)}") from error


def _with_mappings(data: Any) -> Any:
    """Replace classes that are given as bare names by mappings."""
    if not isinstance(data, Mapping) or not isinstance(data.get("classes"), list):
        return data
    return {**data, "classes": [{"name": each} if isinstance(each, str) else each for each in data["classes"]]}


def _no_reserved_group(group: str | None) -> str | None:
    if group in _RESERVED_GROUPS:
        raise ValueError(f"no group can be called {group!r}")
    return group


Label = Annotated[int, Field(ge=0, lt=LABEL_VALUES)]
_STRICT = ConfigDict(strict=True, extra="forbid")


class _ClassEntry(BaseModel):
    """One class in the file. The keys from ``class_id`` on are allowed because a run's classes.json has them."""

    model_config = _STRICT

    name: Annotated[str, Field(pattern=r"\S")]
    seen: bool | None = None
    group: Annotated[str | None, Field(min_length=1), AfterValidator(_no_reserved_group)] = None
    thing: bool | None = None
    raw_id: Label | None = None
    class_id: int | None = None
    colour: Any = None
    synonyms: Any = None
    prompts: Any = None
    distractor: Any = None


class ProtocolFile(BaseModel):
    """A protocol file as a whole; ``notes`` are for the reader and are not used."""

    model_config = _STRICT

    classes: Annotated[list[_ClassEntry], FailFast(), Field(min_length=1, max_length=LABEL_VALUES - 2)]
    ignore_label: Label = 255
    title: str | None = None
    notes: Any = None
