"""Measures reading and decoding alone, without a model and without Ray, and the bytes that travel between stages."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from maskmill.model import Vocabulary
from maskmill.model.spec import ModelSpec
from maskmill.pipeline.bench.result import environment
from maskmill.pipeline.decoding.decode import Decoding
from maskmill.pipeline.sources import list_shards
from maskmill.pipeline.sources.shard import DEFAULT_LIMITS
from maskmill.pipeline.stages.decode import DecodeStage
from maskmill.pipeline.stages.model import ClassifyStage, ProposeStage, StageModel
from maskmill.pipeline.stages.read import ReadStage, ShardTask
from maskmill.pipeline.stages.weights import local_spec
from maskmill.pipeline.uris import public_uri

TRAVELLED_IMAGES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class IoBench:
    """What to measure. input: the images. spec: the model they are resized for. limit: the most images to read."""

    input: str
    spec: ModelSpec
    limit: int
    storage_options: Mapping[str, Any]


def measure_io(bench: IoBench, vocabulary: Vocabulary) -> dict[str, Any]:
    """Measure seconds per image of reading and of decoding on one core, and bytes per image after each stage.

    Raises ValueError where no image can be decoded.
    """
    assert bench.spec.max_long_side is not None
    decode = DecodeStage(Decoding(), bench.spec.short_side, bench.spec.max_long_side)
    read_s = decode_s = 0.0
    images = 0
    first: pa.Table | None = None
    started = time.perf_counter()
    for table in _tables(bench):
        read_s += time.perf_counter() - started
        started = time.perf_counter()
        decoded = pa.concat_tables(decode(table))
        decode_s += time.perf_counter() - started
        if decoded["pixels"].null_count < len(decoded):
            first = table if first is None else first
            images += len(decoded) - decoded["pixels"].null_count
        if images >= bench.limit:
            break
        started = time.perf_counter()
    if first is None:
        raise ValueError(f"no image in {public_uri(bench.input)} could be decoded")
    return {
        "bench": "io",
        "settings": {"input": public_uri(bench.input), "images": images, "spec": asdict(bench.spec)},
        "environment": environment(),
        "read_seconds_per_image": read_s / images,
        "decode_seconds_per_image": decode_s / images,
        "images_per_second": images / (read_s + decode_s),
        "bytes_per_image": travelled_bytes(first, decode, bench, vocabulary),
    }


def travelled_bytes(encoded: pa.Table, decode: DecodeStage, bench: IoBench, vocabulary: Vocabulary) -> dict[str, float]:
    """Return bytes per image of the tables that stages hand over, from one small batch run through all stages."""
    encoded = encoded.slice(0, TRAVELLED_IMAGES)
    spec = local_spec(bench.spec, bench.storage_options)
    model = StageModel(spec=spec, vocabulary=vocabulary, segments="semantic", storage_option={})
    tables = {"read -> decode": encoded, "decode -> model": pa.concat_tables(decode(encoded))}
    tables["propose -> classify (split pools)"] = ProposeStage(model, 1)(tables["decode -> model"])
    tables["model -> encode"] = ClassifyStage(model, 1)(tables["propose -> classify (split pools)"])
    return {name: table.nbytes / len(table) for name, table in tables.items()}


def _tables(bench: IoBench) -> Iterator[pa.Table]:
    read = ReadStage(DEFAULT_LIMITS, bench.storage_options)
    for index, shard in enumerate(list_shards(bench.input, storage_options=bench.storage_options)):
        yield from read(pa.table({"task": [pickle.dumps(ShardTask(index=index, shard=shard))]}))


def io_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the result as rows of a printed table."""
    rows = [
        {"what": name, "value": round(result[f"{name}_seconds_per_image"] * 1000, 3), "unit": "ms/image"}
        for name in ("read", "decode")
    ]
    rows.append({"what": "read and decode", "value": round(result["images_per_second"], 1), "unit": "images/s"})
    rows += [
        {"what": name, "value": round(size / 1000, 1), "unit": "kB/image"}
        for name, size in result["bytes_per_image"].items()
    ]
    return rows
