"""Streams JSON documents whose lists are larger than memory, one element per line."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Any


class JsonLists:
    """Writes one JSON object: ``head``, then lists that are filled at the same time.

    The first list is written directly to ``stream``; the others go to temporary files, which are appended when the
    block ends.
    """

    def __init__(self, stream: IO[bytes], head: Mapping[str, Any], lists: Sequence[str]) -> None:
        self._stream = stream
        self._stack = ExitStack()
        self._counts = dict.fromkeys(lists, 0)
        self._streams: dict[str, IO[bytes]] = {lists[0]: stream}
        for name in lists[1:]:
            spool = tempfile.TemporaryFile(prefix="maskmill-")  # noqa: SIM115 (the stack closes it)
            self._streams[name] = self._stack.enter_context(spool)
        stream.write(encode(head)[:-1] + (b"," if head else b""))
        stream.write(f'"{lists[0]}":['.encode())

    def __enter__(self) -> JsonLists:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is None:
                self._close()

    def add(self, name: str, value: Mapping[str, Any]) -> None:
        """Append to one of the lists."""
        stream = self._streams[name]
        stream.write((b",\n" if self._counts[name] else b"\n") + encode(value))
        self._counts[name] += 1

    def _close(self) -> None:
        self._stream.write(b"\n]")
        for name, stream in list(self._streams.items())[1:]:
            self._stream.write(f',"{name}":['.encode())
            stream.seek(0)
            shutil.copyfileobj(stream, self._stream, 2**20)
            self._stream.write(b"\n]")
        self._stream.write(b"}\n")


def encode(value: Any) -> bytes:
    """Return compact JSON in UTF-8. Raises ValueError for NaN and infinity, which JSON does not have."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def finite(value: float) -> float | None:
    """Return ``value`` rounded to the digits of a float32, None for NaN and infinity."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
