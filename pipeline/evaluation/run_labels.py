"""Lists the committed labels of a maskmill run as predictions to evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from maskmill.pipeline.evaluation.inventory import FileList, Inventory, write_lists
from maskmill.pipeline.evaluation.protocol import EvaluationError, Protocol, match_classes
from maskmill.pipeline.output.folder import CLASSES_FILE, ERRORS_FOLDER, Output, errors_name, labels_name
from maskmill.pipeline.output.markers import marked_shards
from maskmill.pipeline.results.classes import read_run_classes
from maskmill.pipeline.storage.files import public_uri

_READ_THREADS = 16
_FOREIGN_PROPOSALS = ("hf:", "sam:")


def run_inventory(
    output: Output, run: Mapping[str, Any], protocol: Protocol, results: Output, suffix: str = ""
) -> Inventory:
    """List the labels of every finished shard (one with a marker).

    run: the parsed run.json. suffix: removed from the ends of image ids. Raises EvaluationError where the run is not
    complete, has no finished shard, or has other classes than the protocol.
    """
    uri = public_uri(output.uri)
    classes = read_run_classes(output)
    if classes is None:
        raise EvaluationError(f"{uri} holds no {CLASSES_FILE}: it is not a complete run")
    class_table = match_classes(protocol, classes)
    shards = marked_shards(output)
    if not shards:
        raise EvaluationError(f"{uri} holds no finished shard yet")
    files = _labels_files(output, shards, suffix)
    source, index = write_lists(files, class_table, protocol, results)
    config = run.get("config", {})
    # Records that are older than the setting are of runs whose proposer was a ZegFormer.
    proposer = run.get("fingerprint", {}).get("proposer", "zegformer")
    return Inventory(
        source=source,
        index=index,
        files=files.names,
        failed=_failed_images(output, shards),
        pending_shards=max(0, int(run.get("shards", len(shards))) - len(shards)),
        has_instances=config.get("segments") == "query",
        description={
            "kind": "run",
            "run_id": run.get("run_id"),
            "preset": config.get("preset"),
            "fingerprint": run.get("fingerprint"),
            "versions": run.get("versions"),
        },
        warnings=_warnings(protocol, proposer, classes, class_table),
    )


def _labels_files(output: Output, shards: Sequence[str], suffix: str) -> FileList:
    """List the labels files of the shards, with the image ids in each."""
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        columns = list(pool.map(lambda shard: _text_column(output, labels_name(shard), "image_id"), shards))
    return FileList(
        kind="labels",
        data=output,
        names=[labels_name(shard) for shard in shards],
        image_ids=(ids for ids, _ in columns),
        versions=[version for _, version in columns],
        uris=lambda number: _text_column(output, labels_name(shards[number]), "uri")[0],
        suffix=suffix,
    )


def _failed_images(output: Output, shards: Sequence[str]) -> int:
    """Count the rows in the errors tables of the shards."""
    finished = set(shards)
    with_errors = [errors_name(shard) for shard in output.names(ERRORS_FOLDER, ".parquet") if shard in finished]
    return sum(output.read_table(name, columns=["row"]).num_rows for name in with_errors)


def _text_column(output: Output, name: str, column: str) -> tuple[list[str], str]:
    """Return one column of a labels file, and the file's version."""
    table, version = output.read_columns(name, [column])
    return table[column].to_pylist(), version


def _warnings(
    protocol: Protocol, proposer: str, classes: Sequence[Mapping[str, Any]], class_table: np.ndarray
) -> list[str]:
    warnings = []
    differing = [
        entry["name"]
        for entry, i in zip(classes, class_table, strict=True)
        if i < len(protocol)
        and None not in (entry.get("seen"), protocol.classes[i].seen)
        and entry["seen"] != protocol.classes[i].seen
    ]
    if differing:
        warnings.append(
            f"{len(differing)} classes, such as {differing[0]!r}, were labelled as seen where the protocol says unseen "
            "or the other way round; fusion and calibration followed the labels' own flags"
        )
    has_unseen = any(entry.seen is False for entry in protocol.classes)
    if has_unseen and proposer.startswith(_FOREIGN_PROPOSALS):
        warnings.append(
            f"proposals came from {proposer!r}, which may have been trained on masks of the unseen classes: then these "
            "figures are not zero-shot"
        )
    return warnings
