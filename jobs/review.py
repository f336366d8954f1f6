"""``maskmill review``: writes the segments that a person should look at first, as a table for labelling tools."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from maskmill.jobs.arguments import RunOutput, StorageOption
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.uris import public_uri

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".jsonl")


def review(
    output: RunOutput,
    out: Annotated[str, typer.Option(metavar="FILE", help="Where the queue goes: a .parquet or .jsonl file.")],
    per_reason: Annotated[int, typer.Option(min=1, help="At most this many segments for each reason.")] = 1000,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Look at only this many shards, spread evenly over the run.")
    ] = None,
    storage_option: StorageOption = None,
) -> None:
    """Write the review queue: low scores, disagreeing branches, unstable masks, unusual areas; worst first."""
    from maskmill.pipeline.results.beside_run import check_beside_run
    from maskmill.pipeline.results.reader import open_results
    from maskmill.pipeline.results.review import REASONS, build_queue
    from maskmill.pipeline.results.totals import read_figures
    from maskmill.pipeline.storage.files import open_filesystem, parse_storage_options, write_atomic
    from maskmill.pipeline.storage.writable import check_file_writable

    if not out.endswith(SUFFIXES):
        raise UsageError(f"cannot tell the format of {out!r}; name a file that ends in {' or '.join(SUFFIXES)}")
    options = parse_storage_options(storage_option or [])
    results = open_results(output, options)
    check_beside_run(results, out, what="the queue")
    check_file_writable(out, options, what="the queue")
    queue = build_queue(results, read_figures(results).class_rows, per_reason, shards)
    write_atomic(*open_filesystem(out, options), _encoded(queue, out))
    counts = Counter(queue["reason"].to_pylist())
    for reason, meaning in REASONS.items():
        typer.echo(f"{counts[reason]:>7,} x {reason:13} {meaning}")
    typer.echo(public_uri(out))


def _encoded(queue: pa.Table, name: str) -> bytes:
    import io
    import json

    import pyarrow.parquet as pq

    if name.endswith(".jsonl"):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in queue.to_pylist()).encode()
    sink = io.BytesIO()
    pq.write_table(queue, sink, compression="zstd")
    return sink.getvalue()
