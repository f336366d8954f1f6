"""Reads the classes.json of a run, and checks every entry, because users edit and copy this file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maskmill.pipeline.output.folder import CLASSES_FILE, DamagedFileError, Output
from maskmill.pipeline.storage.documents import explain
from maskmill.pipeline.storage.files import public_uri


class _RunClass(BaseModel):
    """The keys of one class that are checked; further keys are allowed."""

    model_config = ConfigDict(strict=True, extra="ignore")

    class_id: int
    name: Annotated[str, Field(min_length=1)]
    seen: bool | None = None
    thing: bool | None = None
    distractor: bool = False
    synonyms: list[str] = Field(default_factory=list)
    colour: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)] | None = None


class _RunClasses(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    classes: list[_RunClass]


def read_run_classes(output: Output) -> list[dict[str, Any]] | None:
    """Return the entries of a run's classes.json in id order, None if there is no such file.

    Raises DamagedFileError, naming file and entry, if the file is not as a run writes it.
    """
    document = output.read_json(CLASSES_FILE)
    if document is None:
        return None
    shown = f"{public_uri(output.uri)}/{CLASSES_FILE}"
    try:
        found = _RunClasses.model_validate(document)
    except ValidationError as error:
        raise DamagedFileError(f"{shown}{explain(error)}") from error
    for position, entry in enumerate(found.classes):
        if entry.class_id != position:
            raise DamagedFileError(
                f"{shown}: classes[{position}].class_id: {entry.class_id} does not follow {position - 1}; the labels "
                "name classes by their place in this list"
            )
    return list(document["classes"])
