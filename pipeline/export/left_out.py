"""Collects the images that an export leaves out: their number, a file that lists them, and a few for the summary."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from maskmill.pipeline.errors import BadImageError
from maskmill.pipeline.export.target import Target

FILE_NAME = "left_out.csv"
COLUMNS = ("image_id", "uri", "shard", "row")
EXAMPLES = 5


class LeftOut:
    """Collects the images of one export that cannot be read. The list is kept in a temporary file, not in memory."""

    def __init__(self) -> None:
        self.count = 0
        self.examples: list[tuple[str, str]] = []
        self._file = tempfile.TemporaryFile(prefix="maskmill-")  # noqa: SIM115 (closed by __exit__)
        self._text = io.TextIOWrapper(self._file, encoding="utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text)
        self._writer.writerow([*COLUMNS, "error_class", "error_message"])

    def __enter__(self) -> LeftOut:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._text.close()

    def add(self, row: Mapping[str, Any], error: BadImageError) -> None:
        """Add the image of a labels row."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((row["uri"], f"{error.error_class}: {error.message}"))
        self._writer.writerow([*(row[name] for name in COLUMNS), error.error_class, error.message])

    def write(self, target: Target) -> None:
        """Write left_out.csv, if images were left out or an earlier export wrote such a file."""
        if self.count or target.has(FILE_NAME):
            with target.open(FILE_NAME) as stream:
                self._file.seek(0)
                shutil.copyfileobj(self._file, stream)
