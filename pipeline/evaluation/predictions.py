"""Reads predictions: segments of a labels table (a run's, or made from a results file), or label maps in a folder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from maskmill.pipeline.evaluation.index import PredictionIndex, Wanted, stem
from maskmill.pipeline.evaluation.label_maps import decode_label_map, refuse_invalid
from maskmill.pipeline.evaluation.namesakes import PlaceIndex, without_suffix
from maskmill.pipeline.evaluation.overlaps import SegmentMap
from maskmill.pipeline.evaluation.protocol import EvaluationError
from maskmill.pipeline.evaluation.rle_columns import paint, parse_column
from maskmill.pipeline.output.folder import Output

COLUMNS = ["image_id", "width", "height", "class_ids", "scores", "rles"]
INDEX = "index.parquet"
FILES = "files.parquet"
PLACES = "places.parquet"
_CACHED_TABLES = 4
_RANGE_HINT = "is this the protocol the predictions were made for? (--prediction-ids raw reads a dataset's own ids)"


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionSource:
    """Where predictions are and how to read them; plain values that can be sent to workers.

    kind: "labels" for Parquet files with at least COLUMNS, "maps" for one label map per file. data: the folder of the
    files. lists: the folder with INDEX, PLACES and FILES (the names of the files, relative to data). suffix: removed
    from the ends of image ids. class_table: evaluation id of each id in the files; C is unlabelled, C + 1 invalid.
    classes: C. version: changes when the predictions change.
    """

    kind: Literal["labels", "maps"]
    data: Output
    lists: Output
    class_table: np.ndarray
    classes: int
    version: str
    suffix: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The prediction of one image. position: its place in the index. segments: in column-major order."""

    position: int
    image_id: str
    height: int
    width: int
    segments: SegmentMap


class PredictionReader:
    """Looks up and decodes predictions; make one per process, since it keeps the index and the last few tables."""

    def __init__(self, source: PredictionSource) -> None:
        self._source = source
        places = PlaceIndex.from_table(source.lists.read_table(PLACES))
        self._index = PredictionIndex.from_table(source.lists.read_table(INDEX)).with_places(places)
        self._files: pa.ChunkedArray = source.lists.read_table(FILES)["name"]
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()

    def find(self, wanted: Sequence[Wanted]) -> np.ndarray:
        """Return (len(wanted),) int64 positions of predictions, MISSING or AMBIGUOUS."""
        return self._index.find(wanted)

    def read(self, positions: Sequence[int], wanted: Sequence[Wanted]) -> Iterator[Prediction]:
        """Yield the predictions at ``positions``, which :meth:`find` gave for ``wanted``.

        Raises EvaluationError for class ids out of range and for damaged or overlapping segments.
        """
        load = self._load_maps if self._source.kind == "maps" else self._load_rows
        for prediction, each in zip(load(list(positions)), wanted, strict=True):
            found = stem(prediction.image_id.removesuffix(self._source.suffix))
            if found not in {stem(name) for name in each.names}:
                raise RuntimeError(f"the hashes of {each.names[0]!r} and {prediction.image_id!r} collide")
            yield prediction

    def _load_maps(self, positions: list[int]) -> Iterator[Prediction]:
        classes = self._source.classes
        names = [str(self._files[int(self._index.file[position])]) for position in positions]
        for position, name, data in zip(positions, names, self._source.data.read_many(names), strict=True):
            values = decode_label_map(data, name)
            flat = np.ascontiguousarray(values.T).ravel()
            mapped = self._source.class_table[flat]
            refuse_invalid(mapped, flat, classes, f"prediction {name!r}", _RANGE_HINT)
            counts = np.bincount(mapped, minlength=classes + 1)
            present = np.flatnonzero(counts[:classes])
            number = np.full(classes + 1, present.size, dtype=np.uint16)
            number[present] = np.arange(present.size)
            segments = SegmentMap(index=number[mapped], classes=present)
            height, width = values.shape
            yield Prediction(
                position=position, image_id=without_suffix(name), height=height, width=width, segments=segments
            )

    def _load_rows(self, positions: list[int]) -> Iterator[Prediction]:
        if not positions:
            return
        table = self._rows(positions)
        heights, widths = table["height"].to_numpy().astype(np.int64), table["width"].to_numpy().astype(np.int64)
        segments = table["class_ids"].combine_chunks()
        counts = segments.value_lengths().to_numpy().astype(np.int64)
        classes = self._evaluation_ids(table, segments.flatten().to_numpy(), counts)
        scores = _scores(table, int(counts.sum()))
        image_ids = table["image_id"].to_pylist()
        rles = table["rles"].combine_chunks()
        runs = parse_column(rles, counts, heights * widths, lambda i: f"the prediction of {image_ids[i]!r}")
        ends = np.cumsum(counts)
        for i, position in enumerate(positions):
            of_image = slice(ends[i] - counts[i], ends[i])
            pixels, name = int(heights[i] * widths[i]), f"the prediction of {image_ids[i]!r}"
            segment_map = SegmentMap(
                index=paint(runs, i, pixels, int(counts[i]), name),
                classes=classes[of_image],
                scores=None if scores is None else scores[of_image],
            )
            yield Prediction(
                position=position,
                image_id=image_ids[i],
                height=int(heights[i]),
                width=int(widths[i]),
                segments=_without_unlabelled(segment_map, self._source.classes),
            )

    def _rows(self, positions: list[int]) -> pa.Table:
        files, rows = self._index.file[positions], self._index.row[positions]
        parts, places = [], []
        for file in np.unique(files):
            chosen = np.flatnonzero(files == file)
            parts.append(self._table(int(file)).take(rows[chosen]))
            places.append(chosen)
        if len(parts) == 1:
            return parts[0].combine_chunks()
        return pa.concat_tables(parts).take(np.argsort(np.concatenate(places))).combine_chunks()

    def _table(self, file: int) -> pa.Table:
        if file in self._tables:
            self._tables.move_to_end(file)
        else:
            name = str(self._files[file])
            table = self._source.data.read_table(name, columns=COLUMNS)
            if table.num_rows != int((self._index.file == file).sum()):
                raise EvaluationError(f"{name} changed while it was evaluated; run the same command again")
            self._tables[file] = table
            if len(self._tables) > _CACHED_TABLES:
                self._tables.popitem(last=False)
        return self._tables[file]

    def _evaluation_ids(self, table: pa.Table, class_ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
        class_table, classes = self._source.class_table, self._source.classes
        is_inside = (class_ids >= 0) & (class_ids < class_table.size)
        mapped = np.where(is_inside, class_table[np.where(is_inside, class_ids, 0)], classes + 1).astype(np.int64)
        bad = np.flatnonzero(mapped > classes)
        if bad.size:
            image = int(np.searchsorted(np.cumsum(counts), bad[0], side="right"))
            name = f"the prediction of {table['image_id'][image].as_py()!r}"
            refuse_invalid(mapped, class_ids, classes, name, _RANGE_HINT)
        return mapped


def _scores(table: pa.Table, segments: int) -> np.ndarray | None:
    scores = table["scores"].combine_chunks().flatten()
    if scores.null_count == len(scores) and segments:
        return None
    if len(scores) != segments:
        raise EvaluationError(f"{len(scores)} scores for {segments} segments in a labels file")
    return scores.to_numpy(zero_copy_only=False).astype(np.float32)


def _without_unlabelled(segments: SegmentMap, classes: int) -> SegmentMap:
    """Drop segments of distractor classes, so that their pixels count as unlabelled."""
    kept = segments.classes < classes
    if kept.all():
        return segments
    number = np.full(kept.size + 1, np.count_nonzero(kept), dtype=np.uint16)
    number[:-1][kept] = np.arange(np.count_nonzero(kept))
    return SegmentMap(
        index=number[segments.index],
        classes=segments.classes[kept],
        scores=None if segments.scores is None else segments.scores[kept],
    )
