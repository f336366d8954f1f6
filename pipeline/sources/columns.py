"""Finds which columns of a table hold the image, its id and its ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes", "content", "data")
URI_COLUMNS = ("uri", "url", "image_uri", "image_url", "path", "image_path", "file", "filename", "file_name", "image")
ID_COLUMNS = ("image_id", "id", "key", "__key__")
SEGMENTATION_COLUMNS = ("segmentation", "seg.png")


class ColumnError(Exception):
    """A table has no usable image column; the message names the columns found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableLayout:
    """Names of the columns to read. Either ``image`` (bytes) or ``uri`` is set; ``image`` may be a field of a struct.

    path: a field beside ``image`` with the place of an image whose bytes are null. None for image_id, path or
    segmentation: the table has no such column.
    """

    image: str | None
    uri: str | None
    path: str | None = None
    image_id: str | None
    segmentation: str | None

    def columns(self) -> list[str]:
        """Return the top-level names and dotted paths to read, without repeats."""
        names = [self.image, self.uri, self.path, self.image_id, self.segmentation]
        return list(dict.fromkeys(name for name in names if name is not None))


def storage_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column's values, without extension, dictionary and run lengths, which are only layout."""
    if isinstance(kind, pa.BaseExtensionType):
        return storage_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return storage_type(kind.value_type)
    return kind


def plain(values: pa.Array) -> pa.Array:
    """Return the values as large binary or large text, or as their storage type where they are neither."""
    if isinstance(values, pa.ExtensionArray):
        return plain(values.storage)
    if pa.types.is_dictionary(values.type):
        return plain(values.dictionary_decode())
    if pa.types.is_run_end_encoded(values.type):
        return plain(pc.run_end_decode(values))
    if is_binary(values.type):
        return values.cast(pa.large_binary())
    return values.cast(pa.large_string()) if is_text(values.type) else values


def is_binary(kind: pa.DataType) -> bool:
    """Whether values of this type are bytes, in any layout; the bytes of a UUID do not count."""
    if getattr(kind, "extension_name", "") == "arrow.uuid":
        return False
    storage = storage_type(kind)
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(test(storage) for test in tests)


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are text, in any layout."""
    storage = storage_type(kind)
    return any(test(storage) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _field(kind: pa.DataType, name: str, test: Callable[[pa.DataType], bool]) -> bool:
    """Whether this is a struct with such a field, of a type that passes the test."""
    struct = storage_type(kind)
    return pa.types.is_struct(struct) and struct.get_field_index(name) >= 0 and test(struct.field(name).type)


def _bytes_column(schema: pa.Schema, name: str) -> str | None:
    """Return the path of the bytes in a column: its name, or that of a field in Hugging Face's struct<bytes, path>."""
    kind = schema.field(name).type
    if is_binary(kind):
        return name
    return f"{name}.bytes" if _field(kind, "bytes", is_binary) else None


def _path_beside(schema: pa.Schema, image: str | None) -> str | None:
    """Return the path of the field that says where an image lies whose bytes are null."""
    top, _, field = (image or "").rpartition(".")
    if field != "bytes" or top not in schema.names:
        return None
    return f"{top}.path" if _field(schema.field(top).type, "path", is_text) else None


def table_layout(schema: pa.Schema, image_column: str | None = None) -> TableLayout:
    """Choose the columns of a Parquet file. Raises ColumnError naming the columns found if there is no image."""
    names = set(schema.names)
    segmentation = next((n for n in SEGMENTATION_COLUMNS if n in names and _bytes_column(schema, n)), None)
    segmentation = segmentation and _bytes_column(schema, segmentation)
    image, uri = _named_column(schema, image_column) if image_column else _found_columns(schema, segmentation)
    image_id = next((name for name in ID_COLUMNS if name in names and name not in (image, uri)), None)
    path = _path_beside(schema, image)
    return TableLayout(image=image, uri=uri, path=path, image_id=image_id, segmentation=segmentation)


def _named_column(schema: pa.Schema, name: str) -> tuple[str | None, str | None]:
    top, _, field = name.partition(".")
    if name not in schema.names and top in schema.names and _field(schema.field(top).type, field, is_binary):
        return name, None
    if name in schema.names:
        if column := _bytes_column(schema, name):
            return column, None
        if is_text(schema.field(name).type):
            return None, name
        raise ColumnError(f"column {name!r} holds {schema.field(name).type}, not image bytes or URIs")
    raise ColumnError(f"no column {name!r}; the columns are {_described(schema)}")


def _found_columns(schema: pa.Schema, segmentation: str | None) -> tuple[str | None, str | None]:
    for name in IMAGE_COLUMNS:
        if name in schema.names and (column := _bytes_column(schema, name)):
            return column, None
    for name in URI_COLUMNS:
        if name in schema.names and is_text(schema.field(name).type):
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
