"""Reads the classes that a user gives: a file in one of several formats, a bundled protocol, or the names."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from dataclasses import fields

from maskmill.model import Vocabulary
from maskmill.model.vocabulary import ClassEntry
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.evaluation.bundled_protocols import bundled_protocol_data
from maskmill.pipeline.storage.files import StorageOptions, public_uri
from maskmill.pipeline.storage.text_files import YAML_SUFFIXES, parse_data, read_text, suffix_of

log = logging.getLogger(__name__)

TABLE_DELIMITERS = {".csv": ",", ".tsv": "\t"}
FILE_SUFFIXES = (".txt", ".json", *YAML_SUFFIXES, *TABLE_DELIMITERS, ".names", ".labels", ".lst")
"""A text with one of these endings names a file, because class names do not end so."""
PROTOCOL = "protocol:"
"""Prefix of the name of a bundled protocol."""
_PATH_BEGINNINGS = ("/", "./", "../", "~")
_NAME_HEADERS = ("name", "class", "class_name", "label", "category")
_SYNONYMS_HEADER = "synonyms"


def parse_classes(classes: str, storage_options: StorageOptions | None = None) -> Vocabulary:
    """Return the classes of a file (any fsspec URI), of a bundled protocol, or of a comma-separated list of names.

    ``protocol:NAME`` means the classes of that protocol, with their synonyms and which of them are things.
    A file that exists is read under any name. A text that looks like the name of a missing file is an error and never a
    class. Raises UsageError for a file that cannot be read or understood, and ValueError for names that make no
    vocabulary.
    """
    if classes.startswith(PROTOCOL):
        return _of_protocol(classes.removeprefix(PROTOCOL))
    if _means_file(classes):
        return _parse_file(classes, storage_options)
    names = [name.strip() for name in classes.split(",")]
    for name in names:
        if _looks_like_file(name):
            reason = "is a file" if os.path.isfile(name) else "looks like a file, and there is none"
            raise UsageError(f"{name!r} {reason}; give one file alone, or class names separated by commas")
    return Vocabulary(names)


def _of_protocol(name: str) -> Vocabulary:
    kept = [field.name for field in fields(ClassEntry)]
    entries = [{key: entry[key] for key in kept if key in entry} for entry in bundled_protocol_data(name)["classes"]]
    return Vocabulary.from_data(entries)


def _means_file(classes: str) -> bool:
    if "://" in classes or os.path.isfile(classes):
        return True
    # A list of names has commas, and the path of a file seldom has.
    return "," not in classes and _looks_like_file(classes)


def _looks_like_file(name: str) -> bool:
    has_path = os.path.basename(name) != name or "." in name
    return (
        "://" in name
        or name.lower().endswith(FILE_SUFFIXES)
        or name.startswith(_PATH_BEGINNINGS)
        or (has_path and os.path.exists(name))
    )


def _parse_file(uri: str, storage_options: StorageOptions | None) -> Vocabulary:
    text = read_text(uri, storage_options)
    suffix, shown = suffix_of(uri), public_uri(uri)
    try:
        if suffix in (".json", *YAML_SUFFIXES):
            return Vocabulary.from_data(parse_data(text, shown))
        if suffix in TABLE_DELIMITERS:
            return Vocabulary(_table_entries(text, TABLE_DELIMITERS[suffix], shown))
        return Vocabulary.from_text(text)
    except ValueError as error:
        raise UsageError(f"{shown}: {error}") from error


def _table_entries(text: str, delimiter: str, shown: str) -> list[ClassEntry]:
    """Return the classes of a CSV or TSV file, one a row.

    If the first row has a cell such as "name", it is a header: names come from that column, and synonyms from the
    column "synonyms". Otherwise the first cell of each row is a name, and all further cells are synonyms.
    """
    try:
        rows = [
            [cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter, strict=True)
        ]
    except csv.Error as error:
        raise ValueError(f"this is no valid CSV: {error}") from error
    rows = [row for row in rows if any(row)]
    header = [cell.casefold() for cell in rows[0]] if rows else []
    name_column = next((header.index(name) for name in _NAME_HEADERS if name in header), None)
    if name_column is None:
        if rows and len(rows[0]) > 1 and all(row[0].lstrip("-").isdigit() for row in rows):
            raise ValueError("the first column holds numbers; add a header in which the column of the names is 'name'")
        return [_entry(row[0], row[1:], number) for number, row in enumerate(rows, start=1)]
    synonyms_column = header.index(_SYNONYMS_HEADER) if _SYNONYMS_HEADER in header else None
    ignored = [cell for number, cell in enumerate(rows[0]) if number not in (name_column, synonyms_column)]
    if ignored:
        log.warning("%s: these columns say nothing of a class's names and are not used: %s", shown, ", ".join(ignored))
    return [
        _entry(_cell(row, name_column), _cell(row, synonyms_column).split(","), number)
        for number, row in enumerate(rows[1:], start=2)
    ]


def _cell(row: Sequence[str], column: int | None) -> str:
    return row[column] if column is not None and column < len(row) else ""


def _entry(name: str, synonyms: Sequence[str], row: int) -> ClassEntry:
    if not name:
        raise ValueError(f"row {row} has no name")
    return ClassEntry(name=name, synonyms=tuple(each.strip() for each in synonyms if each.strip()))
