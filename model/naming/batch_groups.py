"""The images of a call sorted into groups of one shape, and the results of a group handed back image by image.

Legend for shapes: B images of a group, Q queries of each, P = B * Q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from maskmill.model.naming.semantic import Frame
from maskmill.model.networks.transfers import Transfers
from maskmill.model.proposals import Proposals, Segmentation


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The images of a call whose proposals have one shape, those with the same frame next to each other.

    at: (B,), their positions in the call. images: uint8. frames: one of each image. proposals: all of them as those of
    one image, (P, ...) each, with mask_logits (P, h, w); image_size is that of the first.
    """

    at: tuple[int, ...]
    images: tuple[np.ndarray, ...]
    frames: tuple[Frame, ...]
    proposals: Proposals

    @property
    def masks(self) -> Tensor:
        """The mask logits as (B, Q, h, w)."""
        return self.proposals.mask_logits.unflatten(0, (len(self.at), -1))


def groups_of(
    images: Sequence[np.ndarray],
    proposals: Sequence[Proposals],
    sizes: Sequence[tuple[int, int]],
    transfers: Transfers,
) -> list[Group]:
    """Return the images of a call in groups that can be computed together. sizes: (height, width) of each output."""
    frames = [
        Frame(padded_size=own.padded_size, image_size=own.image_size, output_size=(int(size[0]), int(size[1])))
        for own, size in zip(proposals, sizes, strict=True)
    ]

    def shape(position: int) -> tuple[tuple[int, ...], ...]:
        return frames[position].padded_size, tuple(proposals[position].mask_logits.shape)

    def key(position: int) -> tuple[tuple[int, ...], ...]:
        return *shape(position), frames[position].image_size, frames[position].output_size

    groups = []
    for _, members in groupby(sorted(range(len(images)), key=key), key=shape):
        at = tuple(members)
        groups.append(
            Group(
                at=at,
                images=tuple(images[position] for position in at),
                frames=tuple(frames[position] for position in at),
                proposals=_together([proposals[position] for position in at], transfers),
            )
        )
    return groups


def _together(proposals: Sequence[Proposals], transfers: Transfers) -> Proposals:
    """Return the proposals of several images as those of one, float32 on the device."""

    def together(name: str) -> Tensor | None:
        if getattr(proposals[0], name) is None:
            return None
        parts = [getattr(own, name) for own in proposals]
        if parts[0].device == transfers.device:
            return torch.cat(parts).float()
        shape = (sum(map(len, parts)), *parts[0].shape[1:])
        return transfers.upload(torch.cat(parts, out=transfers.host_buffer(shape, parts[0].dtype))).float()

    masks = together("mask_logits")
    assert masks is not None
    return Proposals(
        mask_logits=masks,
        query_embeddings=together("query_embeddings"),
        no_object_logits=together("no_object_logits"),
        objectness=together("objectness"),
        class_probabilities=together("class_probabilities"),
        image_size=proposals[0].image_size,
        padded_size=proposals[0].padded_size,
    )


def segmentations(group: Group, arrays: dict[str, np.ndarray]) -> dict[int, Segmentation]:
    """Return the finished segmentation of each image of the group by its position in the call.

    arrays: by the names of ``Segmentation``'s fields, (P, ...) each; maps by name and number of the first image of a
    frame, with one entry for each image of that frame.
    """
    count, named = len(group.at), {}
    start = {at: at for at in range(count)}
    for at in range(1, count):
        start[at] = start[at - 1] if group.frames[at] == group.frames[at - 1] else at
    for at, position in enumerate(group.at):

        def own(name: str, at: int = at) -> np.ndarray:
            return arrays[name].reshape(count, -1, *arrays[name].shape[1:])[at]

        def drawn(name: str, at: int = at) -> np.ndarray | None:
            array = arrays.get(f"{name} {start[at]}")
            return None if array is None else array[at - start[at]]

        label_map, class_queries, query_map = drawn("label_map"), drawn("class_queries"), drawn("query_map")
        assert label_map is not None
        assert class_queries is not None
        scores = own("query_scores")
        named[position] = Segmentation(
            label_map=label_map.view(np.uint16),
            query_scores=scores,
            boxes=own("boxes"),
            class_queries=class_queries,
            objectness=own("objectness"),
            stability=own("stability"),
            agreement=own("agreement") if "agreement" in arrays else np.ones(len(scores), bool),
            margin=own("margin"),
            semantic_scores=drawn("semantic_scores"),
            query_map=None if query_map is None else query_map.view(np.uint16),
        )
    return named
