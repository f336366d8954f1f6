"""Predictions of other programs: COCO results files (as the official release writes them) and folders of label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from maskmill.pipeline.evaluation import coco
from maskmill.pipeline.evaluation.coco_files import PanopticFile
from maskmill.pipeline.evaluation.config import EvaluationConfig
from maskmill.pipeline.evaluation.inventory import LISTS, FileList, IdForm, Inventory, write_lists
from maskmill.pipeline.evaluation.namesakes import without_suffix
from maskmill.pipeline.evaluation.protocol import EvaluationError, Protocol, prediction_table
from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.sources.listing import list_files
from maskmill.pipeline.sources.stream import find_file
from maskmill.pipeline.storage.files import public_uri

_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("class_ids", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
        ("rles", pa.list_(pa.string())),
    ]
)


def results_inventory(config: EvaluationConfig, protocol: Protocol, results: Output) -> Inventory:
    """List the images of a COCO results file, rewritten as a labels table in pieces below the results.

    Raises EvaluationError for a file that is not a results file, and for categories the protocol does not have.
    """
    entries, categories = _read_results(config, protocol)
    pieces = [entries[at : at + config.shard_size] for at in range(0, len(entries), config.shard_size)]
    names = [f"{number:06d}.parquet" for number in range(len(pieces))]
    for name, piece in zip(names, pieces, strict=True):
        results.write_table(f"{LISTS}/{name}", _piece_table(piece, categories))
    files = FileList(
        kind="labels",
        data=Output(f"{results.uri}/{LISTS}", results.storage_options),
        names=names,
        image_ids=([entry.image_id for entry in piece] for piece in pieces),
        versions=[find_file(config.output, config.storage_option).version],
        uris=lambda number: [entry.file_name for entry in pieces[number]],
        suffix=config.prediction_suffix,
    )
    source, index = write_lists(files, np.arange(len(protocol) + 1), protocol, results)
    return Inventory(
        source=source,
        index=index,
        files=names,
        has_instances=any(len(set(entry.categories)) < len(entry.categories) for entry in entries),
        ids=_id_form(entries),
        description={"kind": "COCO results", "name": public_uri(config.output).rsplit("/", 1)[-1]},
    )


def _read_results(config: EvaluationConfig, protocol: Protocol) -> tuple[list[coco.SegmentEntry], dict[int, int]]:
    """Return the images of a results file, and the evaluation id of each of its categories."""
    uri = public_uri(config.output)
    data = coco.load_coco(config.output, config.storage_option)
    if isinstance(data, PanopticFile):
        raise EvaluationError(f"{uri} holds panoptic annotations, which are read as ground truth only")
    entries = coco.segment_entries(data, uri)
    if not entries:
        raise EvaluationError(f"{uri} holds no result")
    bad = next((entry for entry in entries if len(entry.scores) not in (0, len(entry.texts))), None)
    if bad is not None:
        raise EvaluationError(f"{uri}: image {bad.image_id!r} has scores for some of its segments only")
    table = prediction_table(protocol, config.prediction_ids)
    used = (category for entry in entries for category in entry.categories)
    by_name = config.prediction_ids == "evaluation"
    return entries, coco.category_table(data.categories, used, protocol, table, uri, by_name=by_name)


def _id_form(entries: Sequence[coco.SegmentEntry]) -> IdForm:
    """Return how the file names its images: by file name if any has one, else by numbers if all ids are numbers."""
    if any(entry.file_name for entry in entries):
        return "names"
    return "numbers" if all(isinstance(entry.listed_id, int) for entry in entries) else "texts"


def _piece_table(entries: Sequence[coco.SegmentEntry], categories: Mapping[int, int]) -> pa.Table:
    rows = [
        {
            "image_id": entry.image_id,
            "width": entry.width,
            "height": entry.height,
            "class_ids": [categories[category] for category in entry.categories],
            "scores": entry.scores or [None] * len(entry.texts),
            "rles": entry.texts,
        }
        for entry in entries
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def maps_inventory(config: EvaluationConfig, protocol: Protocol, results: Output) -> Inventory:
    """List a folder of label maps. Raises EvaluationError for other files, UsageError where there is no folder."""
    uri = public_uri(config.output).rstrip("/")
    listing = list_files(config.output, config.storage_option, prefer_segmentations=True)
    if listing.kind not in ("image", "segmentation"):
        raise EvaluationError(f"{uri} holds files of kind {listing.kind}, not label maps, and no run (no run.json)")
    names = [file.name for file in listing.files]
    files = FileList(
        kind="maps",
        data=Output(listing.root, config.storage_option),
        names=names,
        image_ids=([without_suffix(name)] for name in names),
        versions=[file.version for file in listing.files],
        uris=lambda number: [names[number]],
        suffix=config.prediction_suffix,
    )
    source, index = write_lists(files, prediction_table(protocol, config.prediction_ids), protocol, results)
    return Inventory(
        source=source, index=index, files=names, description={"kind": "label maps", "name": uri.rsplit("/", 1)[-1]}
    )
