"""Finds which columns of a table hold the image, its id and its ground truth, and says what there is when none does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes", "content", "data")
URI_COLUMNS = ("uri", "url", "image_uri", "image_url", "path", "image_path", "file", "filename", "file_name", "image")
ID_COLUMNS = ("image_id", "id", "key", "__key__")
SEGMENTATION_COLUMNS = ("segmentation", "seg.png")


class ColumnError(Exception):
    """A table has no usable image column; the message names the columns found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableLayout:
    """Names of the columns to read; one of ``image`` (bytes) and ``uri`` is set. ``image`` may be a struct's field.

    An id or segmentation of None means that the table has no such column.
    """

    image: str | None
    uri: str | None
    image_id: str | None
    segmentation: str | None

    def columns(self) -> list[str]:
        """Return the top-level names and dotted paths to read, without repeats."""
        names = [self.image, self.uri, self.image_id, self.segmentation]
        return list(dict.fromkeys(name for name in names if name is not None))


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_bytes_struct(kind: pa.DataType) -> bool:
    """Whether this is how Hugging Face datasets store an image: struct<bytes: binary, path: string>."""
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)


def _bytes_column(schema: pa.Schema, name: str) -> str | None:
    kind = schema.field(name).type
    if _is_binary(kind):
        return name
    return f"{name}.bytes" if _is_bytes_struct(kind) else None


def table_layout(schema: pa.Schema, image_column: str | None = None) -> TableLayout:
    """Choose the columns of a Parquet file. Raises ColumnError naming the columns found if there is no image."""
    names = set(schema.names)
    segmentation = next((n for n in SEGMENTATION_COLUMNS if n in names and _bytes_column(schema, n)), None)
    segmentation = segmentation and _bytes_column(schema, segmentation)
    image, uri = _named_column(schema, image_column) if image_column else _found_columns(schema, segmentation)
    image_id = next((name for name in ID_COLUMNS if name in names and name not in (image, uri)), None)
    return TableLayout(image=image, uri=uri, image_id=image_id, segmentation=segmentation)


def _named_column(schema: pa.Schema, name: str) -> tuple[str | None, str | None]:
    top, _, field = name.partition(".")
    if top in schema.names and name not in schema.names and pa.types.is_struct(schema.field(top).type):
        kind = schema.field(top).type
        if kind.get_field_index(field) >= 0 and _is_binary(kind.field(field).type):
            return name, None
    if name in schema.names:
        if column := _bytes_column(schema, name):
            return column, None
        if _is_text(schema.field(name).type):
            return None, name
        raise ColumnError(f"column {name!r} holds {schema.field(name).type}, not image bytes or URIs")
    raise ColumnError(f"no column {name!r}; the columns are {_described(schema)}")


def _found_columns(schema: pa.Schema, segmentation: str | None) -> tuple[str | None, str | None]:
    for name in IMAGE_COLUMNS:
        if name in schema.names and (column := _bytes_column(schema, name)):
            return column, None
    for name in URI_COLUMNS:
        if name in schema.names and _is_text(schema.field(name).type):
            return None, name
    others = [column for name in schema.names if (column := _bytes_column(schema, name)) and column != segmentation]
    if len(others) == 1:
        return others[0], None
    raise ColumnError(
        f"no column of image bytes ({', '.join(IMAGE_COLUMNS)}) or URIs ({', '.join(URI_COLUMNS[:-1])}); "
        f"the columns are {_described(schema)}. Name one with --image-column"
    )


def _described(schema: pa.Schema) -> str:
    shown = [f"{field.name} ({field.type})" for field in list(schema)[:20]]
    return ", ".join(shown) + (", ..." if len(schema) > len(shown) else "") if shown else "none"


def entry_columns(names: Sequence[str], image_column: str | None = None) -> tuple[str, str | None]:
    """Choose the URI and id columns of a text manifest. Raises ColumnError naming the columns found."""
    wanted = (image_column,) if image_column else URI_COLUMNS
    uri = next((name for name in wanted if name in names), None)
    if uri is None:
        raise ColumnError(f"no column {' or '.join(wanted)}; the columns are {', '.join(names) or 'none'}")
    return uri, next((name for name in ID_COLUMNS if name in names and name != uri), None)
