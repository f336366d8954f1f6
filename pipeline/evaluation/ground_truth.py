"""Finds ground truth, divides it into units of work, and reads one unit image by image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.evaluation import coco
from maskmill.pipeline.evaluation.coco_files import PanopticFile
from maskmill.pipeline.evaluation.config import EvaluationConfig
from maskmill.pipeline.evaluation.index import Wanted
from maskmill.pipeline.evaluation.inventory import IdForm
from maskmill.pipeline.evaluation.namesakes import without_suffix
from maskmill.pipeline.evaluation.protocol import EvaluationError, Protocol, label_table
from maskmill.pipeline.evaluation.rle_columns import paint, parse_column
from maskmill.pipeline.evaluation.truth import AbsentTruth, GroundTruth, from_label_map, from_panoptic, from_segments
from maskmill.pipeline.evaluation.truth_tables import has_rles, id_column, label_column, read_schema, read_segment_table
from maskmill.pipeline.sources import ImageRecord, ReadLimits, Shard, list_shards, read_shard
from maskmill.pipeline.sources.files import READ_THREADS, ordered_map
from maskmill.pipeline.sources.listing import list_files
from maskmill.pipeline.sources.shard import DEFAULT_LIMITS, shard_id
from maskmill.pipeline.storage.files import StorageOptions, is_local, open_filesystem, public_uri, read_bytes

MAP_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
_JSON_CHUNK = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class TruthShard:
    """One unit of work, in plain values. part_id: safe in file names, and the same for the same ground truth.

    kind: "maps" for label maps in files, tars or Parquet; "rles" for Parquet tables with RLEs; "segments" and
    "panoptic" for COCO JSON, whose entries are part of the unit. version: changes when the ground truth changes.
    """

    part_id: str
    kind: Literal["maps", "rles", "segments", "panoptic"]
    version: str
    shard: Shard | None = None
    entries: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TruthReader:
    """Reads units of work; it holds plain values, so that it can be sent to workers.

    label_table: (65536,) evaluation ids of pixel values and class ids. categories: evaluation ids of a COCO JSON's
    categories. maps: folder of a panoptic JSON's PNGs. suffix: removed from the ends of names. ids: how the predictions
    name their images. allow_missing: whether a missing file of ground truth is reported instead of refused. limits:
    what manifests may name.
    """

    label_table: np.ndarray
    classes: int
    suffix: str
    storage_options: StorageOptions
    categories: dict[int, int]
    maps: str
    ids: IdForm = "names"
    allow_missing: bool = False
    limits: ReadLimits = DEFAULT_LIMITS

    def read(self, unit: TruthShard) -> Iterator[GroundTruth | AbsentTruth]:
        """Yield every image of the unit that has ground truth, or whose ground truth is listed but missing.

        Raises EvaluationError for ground truth that does not fit the protocol or cannot be read, and ShardError for a
        damaged archive.
        """
        readers = {"maps": self._maps, "rles": self._rles, "segments": self._segments, "panoptic": self._panoptic}
        for truth in readers[unit.kind](unit):
            image_id = truth.image_id.removesuffix(self.suffix)
            if isinstance(truth, GroundTruth) and not truth.wanted.names:
                truth = replace(truth, wanted=replace(truth.wanted, names=(image_id,)))
            yield replace(truth, image_id=image_id)

    def _wanted(self, entry: coco.SegmentEntry | coco.PanopticEntry, photo: str) -> Wanted:
        """Return what an entry of a COCO file says about its image. photo: the image's file name, where it is known.

        If the predictions name images by number, an entry with a number is matched by that number, not by file name.
        """
        names = dict.fromkeys(
            name.removesuffix(self.suffix) for name in (entry.image_id, without_suffix(photo)) if name
        )
        number = coco.id_key(entry.listed_id)
        if self.ids == "numbers" and isinstance(entry.listed_id, int):
            names = {number: None}
        elif self.ids == "texts" and isinstance(entry.listed_id, str):
            names = {number: None, **names}
        return Wanted(tuple(names), file_name=photo)

    def _maps(self, unit: TruthShard) -> Iterator[GroundTruth | AbsentTruth]:
        assert unit.shard is not None
        in_table = unit.shard.kind == "parquet"  # the column of label maps is read as if it held the images
        is_list = unit.shard.kind == "manifest"  # a list of images with x.seg.png beside them, or a list of label maps
        records = read_shard(
            unit.shard, self.storage_options, with_segmentation=is_list or in_table, limits=self.limits
        )
        for record in records:
            beside = record.segmentation if is_list else None
            if self.allow_missing and record.error is not None and record.error.error_class == "not_found":
                yield AbsentTruth(image_id=record.image_id, file=record.uri)
                continue
            data = _own_label_map(record, in_table) if beside is None else beside
            if data is not None:
                image_id = record.image_id.removesuffix(".seg") if is_list else record.image_id
                truth = from_label_map(data, image_id, record.uri, self.label_table, self.classes)
                yield replace(truth, wanted=Wanted((), record.uri))

    def _rles(self, unit: TruthShard) -> Iterator[GroundTruth]:
        assert unit.shard is not None
        return read_segment_table(unit.shard, self.storage_options, self.label_table, self.classes)

    def _segments(self, unit: TruthShard) -> Iterator[GroundTruth]:
        for start in range(0, len(unit.entries), _JSON_CHUNK):
            entries: Sequence[coco.SegmentEntry] = unit.entries[start : start + _JSON_CHUNK]
            names = [f"ground truth {entry.image_id!r}" for entry in entries]
            counts = np.array([len(entry.texts) for entry in entries])
            pixels = np.array([entry.height * entry.width for entry in entries])
            texts = pa.array([entry.texts for entry in entries], pa.list_(pa.string()))
            runs = parse_column(texts, counts, pixels, names.__getitem__)
            for i, entry in enumerate(entries):
                truth = from_segments(
                    index=paint(runs, i, int(pixels[i]), int(counts[i]), names[i]),
                    shape=(entry.height, entry.width),
                    classes=self._categories(entry.categories),
                    crowd=np.array(entry.crowd, dtype=bool),
                    ignored=self.classes,
                    image_id=entry.image_id,
                )
                yield replace(truth, wanted=self._wanted(entry, entry.file_name))

    def _panoptic(self, unit: TruthShard) -> Iterator[GroundTruth | AbsentTruth]:
        fs, root = open_filesystem(self.maps, self.storage_options)

        def load(entry: coco.PanopticEntry) -> bytes | None:
            try:
                return read_bytes(fs, f"{root.rstrip('/')}/{entry.file_name}")
            except FileNotFoundError as error:
                if self.allow_missing:
                    return None
                raise EvaluationError(f"panoptic PNG {entry.file_name!r} went away during the evaluation") from error

        for entry, data in ordered_map(load, unit.entries, 1 if is_local(fs) else READ_THREADS):
            if data is None:
                yield AbsentTruth(image_id=entry.image_id, file=entry.file_name)
                continue
            truth = from_panoptic(
                data,
                image_id=entry.image_id,
                name=entry.file_name,
                segment_ids=entry.segment_ids,
                classes=self._categories(entry.categories),
                crowd=np.array(entry.crowd, dtype=bool),
                ignored=self.classes,
            )
            yield replace(truth, wanted=self._wanted(entry, entry.photo))

    def _categories(self, categories: Sequence[int]) -> np.ndarray:
        return np.array([self.categories[category] for category in categories], dtype=np.int64)


def _own_label_map(record: ImageRecord, in_table: bool) -> bytes | None:
    """Return the record's data if that is a label map, None for a photograph without ground truth."""
    name = record.uri.lower().partition("#row=")[0]
    if not in_table and not name.endswith(MAP_SUFFIXES):
        return None
    if record.error is None:
        return record.data
    if in_table and record.error.error_class == "missing_data":
        return None
    raise EvaluationError(f"ground truth {record.uri!r} cannot be read: {record.error.message}")


def find_ground_truth(
    config: EvaluationConfig, protocol: Protocol, ids: IdForm = "names"
) -> tuple[list[TruthShard], TruthReader]:
    """Divide the ground truth into units of work and return them with a reader for them.

    ids: how the predictions name their images. Raises UsageError where there is no ground truth, or its categories are
    not the protocol's.
    """
    options = config.storage_option
    reader = TruthReader(
        label_table=label_table(protocol, config.ground_truth_ids, reduce_zero_label=config.reduce_zero_label),
        classes=len(protocol),
        suffix=config.ground_truth_suffix,
        storage_options=options,
        categories={},
        maps=maps_folder(config),
        ids=ids,
        allow_missing=config.allow_missing,
        limits=ReadLimits(
            own_stores=tuple(config.own_store), allow_local=config.allow_local, allow_private=config.allow_private
        ),
    )
    if config.ground_truth.lower().endswith(".json"):
        units, categories = _json_units(config, protocol, reader.label_table)
        return units, replace(reader, categories=categories)
    kind, column = _kind_and_column(config)
    shards = list_shards(
        config.ground_truth,
        storage_options=options,
        shard_size=config.shard_size,
        image_column=column,
        prefer_segmentations=True,
    )
    return [TruthShard(part_id=s.shard_id, kind=kind, version=s.version, shard=s) for s in shards], reader


def _kind_and_column(config: EvaluationConfig) -> tuple[Literal["maps", "rles"], str | None]:
    """Return how ground truth is stored, and for Parquet the column that is read: label maps, or ids beside RLEs."""
    listing = list_files(config.ground_truth, config.storage_option, prefer_segmentations=True)
    if listing.kind != "parquet":
        return "maps", None
    schema = read_schema(listing.files[0].location, config.storage_option)
    if has_rles(schema) and config.ground_truth_column is None:
        return "rles", id_column(schema, config.ground_truth)
    return "maps", label_column(schema, config.ground_truth_column, config.ground_truth)


def _json_units(
    config: EvaluationConfig, protocol: Protocol, table: np.ndarray
) -> tuple[list[TruthShard], dict[int, int]]:
    uri = public_uri(config.ground_truth)
    data = coco.load_coco(config.ground_truth, config.storage_option)
    kind: Literal["segments", "panoptic"] = "panoptic" if isinstance(data, PanopticFile) else "segments"
    entries: list[Any] = (
        coco.panoptic_entries(data) if isinstance(data, PanopticFile) else coco.segment_entries(data, uri)
    )
    if not entries:
        raise EvaluationError(f"{uri} holds no image")
    used = chain.from_iterable(entry.categories for entry in entries)
    by_name = config.ground_truth_ids == "evaluation"
    categories = coco.category_table(data.categories, used, protocol, table, uri, by_name=by_name)
    versions = _png_versions(config, entries) if kind == "panoptic" else {}
    units = []
    for start in range(0, len(entries), config.shard_size):
        chunk = tuple(entries[start : start + config.shard_size])
        content = [
            (repr(entry), versions.get(entry.file_name, "missing") if kind == "panoptic" else "") for entry in chunk
        ]
        version = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        units.append(TruthShard(part_id=shard_id(uri, start=start), kind=kind, version=version, entries=chunk))
    return units, categories


def _png_versions(config: EvaluationConfig, entries: Sequence[coco.PanopticEntry]) -> dict[str, str]:
    """Return the version of every PNG of panoptic annotations.

    Raises EvaluationError where some are missing, unless missing ones are allowed.
    """
    folder = maps_folder(config)
    try:
        listing = list_files(folder, config.storage_option)
    except UsageError as error:
        raise EvaluationError(f"no panoptic PNGs: {error}; name their folder with --panoptic-maps") from error
    versions = {file.name: file.version for file in listing.files}
    missing = [entry.file_name for entry in entries if entry.file_name not in versions]
    if missing and not config.allow_missing:
        raise EvaluationError(
            f"{len(missing)} of {len(entries)} panoptic PNGs are not in {public_uri(folder)}, such as {missing[0]!r}; "
            "name their folder with --panoptic-maps; --allow-missing leaves out the images whose PNG is missing"
        )
    return versions


def maps_folder(config: EvaluationConfig) -> str:
    """Return the folder of the PNGs of panoptic annotations: by default beside the JSON, under its name."""
    return config.panoptic_maps or config.ground_truth.removesuffix(".json")
