"""The ground truth of one image, and the changes made to it before it is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage

from maskmill.pipeline.evaluation.index import NOTHING_KNOWN, Wanted
from maskmill.pipeline.evaluation.label_maps import decode_label_map, decode_segment_ids, refuse_invalid
from maskmill.pipeline.evaluation.overlaps import LIMIT, SegmentMap
from maskmill.pipeline.evaluation.protocol import EvaluationError
from maskmill.pipeline.masks.maps import resize_nearest

_HINT = (
    "is this the protocol of these labels? (--ground-truth-ids raw reads a dataset's own ids, --reduce-zero-label "
    "labels that count from one)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AbsentTruth:
    """An image whose ground truth is listed, but whose file of ground truth is missing."""

    image_id: str
    file: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GroundTruth:
    """The ground truth of one image.

    index: (H, W) uint16 segment of every pixel, S where ignored. classes: (S,) int64. crowd: (S,) bool or None.
    has_instances: True for true instances; False for a plain label map, whose segments are the protocol's classes, of
    which an image has a few. wanted: how to find the image's prediction.
    """

    image_id: str
    index: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray | None = None
    has_instances: bool = False
    wanted: Wanted = field(default=NOTHING_KNOWN)

    def fitted(self, height: int, width: int) -> GroundTruth:
        """Return the ground truth resized by nearest neighbour."""
        return replace(self, index=resize_nearest(self.index, height, width))

    def has_swapped_sides(self, height: int, width: int) -> bool:
        """Return whether the map, at any scale, is as high as an image of this size is wide and the other way round."""
        own_height, own_width = self.index.shape
        upright = abs(own_height * width - own_width * height) <= max(height, width)
        return not upright and abs(own_height * height - own_width * width) <= max(height, width)

    def turned(self, quarters: int) -> GroundTruth:
        """Return the ground truth turned counterclockwise by quarters of a circle."""
        return replace(self, index=np.rot90(self.index, quarters))

    def segments(self) -> SegmentMap:
        """Return the map in column-major order."""
        return SegmentMap(index=np.ascontiguousarray(self.index.T).ravel(), classes=self.classes, crowd=self.crowd)

    def with_components(self, things: np.ndarray) -> GroundTruth:
        """Split every thing class into its 8-connected parts, the best guess at instances that a label map allows.

        things: (C,) bool. Stuff, crowds and true instances stay as they are.
        """
        if self.has_instances:
            return self
        index = np.full(self.index.shape, LIMIT - 1, dtype=np.uint16)
        classes: list[int] = []
        boxes = ndimage.find_objects(self.index.astype(np.int32) + 1, max_label=self.classes.size)
        for segment, box in enumerate(boxes):
            if box is None:
                continue
            class_id = int(self.classes[segment])
            mask = self.index[box] == segment
            if things[class_id]:
                parts, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=bool))
            else:
                parts, count = mask, 1
            if len(classes) + count >= LIMIT:
                raise EvaluationError(f"ground truth of {self.image_id!r} falls into more than {LIMIT - 2} parts")
            np.copyto(index[box], (parts + np.int32(len(classes) - 1)).astype(np.uint16), where=mask)
            classes += [class_id] * count
        index[index == LIMIT - 1] = len(classes)
        return replace(self, index=index, classes=np.array(classes, dtype=np.int64), crowd=None)


def from_label_map(data: bytes, image_id: str, name: str, label_table: np.ndarray, classes: int) -> GroundTruth:
    """Decode a label map. label_table: (65536,) evaluation ids; C ignored, C + 1 invalid.

    Raises EvaluationError for an unreadable file and for values the protocol does not have.
    """
    values = decode_label_map(data, name)
    mapped = label_table[values]
    refuse_invalid(mapped, values, classes, f"ground truth {name!r}", _HINT)
    return GroundTruth(image_id=image_id, index=mapped, classes=np.arange(classes))


def from_segments(
    index: np.ndarray, shape: tuple[int, int], classes: np.ndarray, crowd: np.ndarray, ignored: int, image_id: str
) -> GroundTruth:
    """Build from painted RLEs. index: (P,) column-major segments, S for none. ignored: C, the class to leave out."""
    height, width = shape
    number, kept = _renumbered(classes, ignored)
    return GroundTruth(
        image_id=image_id,
        index=number[index].reshape(width, height).T,
        classes=classes[kept],
        crowd=crowd[kept],
        has_instances=True,
    )


def from_panoptic(
    data: bytes,
    image_id: str,
    name: str,
    segment_ids: Sequence[int],
    classes: np.ndarray,
    crowd: np.ndarray,
    ignored: int,
) -> GroundTruth:
    """Decode a panoptic PNG whose ids are ``segment_ids``; 0 is ignored. Raises EvaluationError for unlisted ids."""
    ids = decode_segment_ids(data, name)
    order = np.argsort(segment_ids, kind="stable")
    known = np.concatenate([np.asarray(segment_ids, dtype=np.int64)[order], [2**24]])
    place = np.searchsorted(known, ids)
    is_known = known[place] == ids
    if (~is_known & (ids != 0)).any():
        unlisted = int(ids[~is_known & (ids != 0)][0])
        raise EvaluationError(f"panoptic PNG {name!r} holds segment {unlisted}, which its annotation does not list")
    number, kept = _renumbered(classes, ignored)
    index = np.where(is_known, number[np.append(order, order.size)[place]], np.uint16(kept.size))
    return GroundTruth(
        image_id=image_id,
        index=index.astype(np.uint16),
        classes=classes[kept],
        crowd=crowd[kept],
        has_instances=True,
    )


def _renumbered(classes: np.ndarray, ignored: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the new number of each segment ("none" for class ``ignored``), and the old numbers of those kept."""
    kept = np.flatnonzero(classes < ignored)
    number = np.full(classes.size + 1, kept.size, dtype=np.uint16)
    number[kept] = np.arange(kept.size)
    return number, kept
