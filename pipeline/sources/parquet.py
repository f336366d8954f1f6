"""Reads images out of Parquet files in batches of rows, so that no whole file or row group is held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.sources.columns import ColumnError, TableLayout, is_binary, is_text, plain, table_layout
from maskmill.pipeline.sources.shard import DEFAULT_LIMITS, DamagedError, ReadLimits, too_large

_BATCH_BYTES = 16 * 2**20
_MAX_BATCH_ROWS = 256
_READ_BUFFER_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """One row. position: in the file. image_id: if the table has one. One of data, uri and error is set."""

    position: int
    image_id: str | None
    data: bytes | None = None
    uri: str | None = None
    error: BadImageError | None = None
    segmentation: bytes | None = None


_DAMAGE = (
    pa.ArrowInvalid,
    pa.ArrowNotImplementedError,
    pa.ArrowTypeError,
    pa.ArrowKeyError,
    pa.ArrowCapacityError,
    UnicodeDecodeError,
)


@contextmanager
def _damage_raised() -> Iterator[None]:
    """Raise Arrow's errors about damaged data as DamagedError; errors of the store are raised as they are."""
    try:
        yield
    except _DAMAGE as error:
        raise DamagedError(f"damaged Parquet data, or none: {error}") from error
    except OSError as error:
        # For corrupt pages Arrow raises a plain OSError without a number; errors of stores have one, or another class.
        if type(error) is OSError and error.errno is None and error.__cause__ is None:
            raise DamagedError(f"damaged Parquet data: {error}") from error
        raise


def open_parquet(stream: IO[bytes]) -> pq.ParquetFile:
    """Read the footer. Raises DamagedError where the file is no Parquet file, truncated or damaged."""
    with _damage_raised():
        # With a buffer size pyarrow reads column chunks in pieces; by default it loads each one as a whole.
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=_READ_BUFFER_BYTES)
        # Reading the names raises an error if they are no text.
        _ = file.schema_arrow.names
    if sum(row_group_rows(file)) != file.metadata.num_rows:
        raise DamagedError("damaged Parquet data: the row groups do not add up to the number of rows")
    return file


def row_group_rows(file: pq.ParquetFile) -> list[int]:
    """Return the number of rows of every row group."""
    return [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]


def parquet_layout(file: pq.ParquetFile, image_column: str | None) -> TableLayout:
    """Choose the columns to read. Raises DamagedError, naming the columns of the file, if none holds images."""
    try:
        return table_layout(file.schema_arrow, image_column)
    except ColumnError as error:
        raise DamagedError(str(error)) from error


def read_parquet(
    file: pq.ParquetFile,
    groups: range,
    layout: TableLayout,
    limits: ReadLimits = DEFAULT_LIMITS,
    *,
    with_segmentation: bool = False,
) -> Iterator[TableRow]:
    """Yield the rows of some row groups. A null image or URI is a row with an error.

    A null image with a path beside it, as in Hugging Face datasets, is a row with that path as its URI. Raises
    DamagedError where pages are corrupt or rows missing.
    """
    columns = [name for name in layout.columns() if with_segmentation or name != layout.segmentation]
    rows = row_group_rows(file)
    position = sum(rows[: groups.start])
    for group in groups:
        end = position + rows[group]
        for batch in _batches(file, group, columns, layout):
            yield from _rows(batch, layout, position, limits, with_segmentation)
            position += batch.num_rows
        if position != end:
            raise DamagedError(f"damaged Parquet data: row group {group} ends {end - position} rows early")


def _batches(file: pq.ParquetFile, group: int, columns: list[str], layout: TableLayout) -> Iterator[pa.RecordBatch]:
    with _damage_raised():
        yield from file.iter_batches(
            batch_size=_batch_rows(file, group, layout), row_groups=[group], columns=columns, use_threads=False
        )


def _batch_rows(file: pq.ParquetFile, group: int, layout: TableLayout) -> int:
    """Return how many rows to read at once, so that they hold about 16 MiB.

    Tables of images are read row by row, unless the whole row group is small: the mean size of its images says nothing
    about the largest one, nor about an image that a dictionary holds once and many rows name.
    """
    metadata = file.metadata.row_group(group)
    if layout.uri is not None:
        row_bytes = metadata.total_byte_size / max(1, metadata.num_rows)
        return int(max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // max(1.0, row_bytes))))
    return int(max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // max(1, metadata.total_byte_size))))


def _column(batch: pa.RecordBatch, path: str | None) -> pa.Array | None:
    if path is None:
        return None
    if path in batch.schema.names:
        return plain(batch.column(path))
    top, _, field = path.rpartition(".")
    # flatten() is used, since it keeps the fields of a null struct null.
    structs = plain(batch.column(top))
    return plain(structs.flatten()[structs.type.get_field_index(field)])


def _rows(
    batch: pa.RecordBatch, layout: TableLayout, position: int, limits: ReadLimits, with_segmentation: bool
) -> Iterator[TableRow]:
    with _damage_raised():
        images, uris, paths = (_column(batch, path) for path in (layout.image, layout.uri, layout.path))
        ids = _column(batch, layout.image_id)
        labels = _column(batch, layout.segmentation) if with_segmentation else None
    for index in range(batch.num_rows):
        fields: dict[str, Any] = {
            "position": position + index,
            "image_id": None if ids is None else _text(ids[index]),
            "segmentation": None if labels is None else labels[index].as_py(),
        }
        if images is not None and images[index].is_valid:
            yield _image_row(images[index], fields, limits)
            continue
        places = paths if uris is None else uris
        if places is None or not places[index].is_valid:
            yield TableRow(**fields, error=BadImageError("read", "missing_data", "the image is null in the table"))
        else:
            yield TableRow(**fields, uri=_text(places[index]))


def _image_row(value: pa.Scalar, fields: dict[str, Any], limits: ReadLimits) -> TableRow:
    size = len(value.as_buffer())
    if size > limits.max_image_bytes:
        return TableRow(**fields, error=too_large(size, limits))
    if size == 0:
        return TableRow(**fields, error=BadImageError("read", "empty", "the image has no data"))
    return TableRow(**fields, data=value.as_py())


def _text(value: pa.Scalar) -> str | None:
    if not value.is_valid:
        return None
    if is_text(value.type) or is_binary(value.type):
        # The bytes are decoded here, since a file may hold other bytes than the UTF-8 it declares.
        return value.as_buffer().to_pybytes().decode("utf-8", "backslashreplace")
    return str(value.as_py())
