"""Images -> class-agnostic segments: the half of the system that needs no class names (paper section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from model.preprocess import normalise, pad_to_multiple
from model.proposals import Proposals
from model.resize import MAX_LONG_SIDE, resize_short_side
from model.zegformer import ZegFormer


class Proposer:
    """Images -> class-agnostic segments, with a ZegFormer.

    short_side, max_long_side: images are resized to this short side unless the long one would exceed its limit; a
    short_side of None feeds them as they are. The network runs where its weights are and in their precision.
    """

    def __init__(self, network: ZegFormer, *, short_side: int | None, max_long_side: int = MAX_LONG_SIDE) -> None:
        for name, value in (("short_side", short_side), ("max_long_side", max_long_side)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        # Convolutions on CPUs run a fifth faster with channels last.
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.short_side = short_side
        self.max_long_side = max_long_side

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Return the image at the size it is fed to the network."""
        if self.short_side is None:
            return image
        return resize_short_side(image, self.short_side, self.max_long_side)

    @torch.inference_mode()
    def __call__(
        self, images: Sequence[np.ndarray], *, resized: bool = False, independent: bool = False
    ) -> list[Proposals]:
        """Propose segments of each image.

        resized: the images already have the size ``resize`` gives them.
        independent: each image runs alone, padded for itself; by default all are padded to one size, as the release
            does, and what a smaller image gets depends on its larger neighbours.
        """
        if not resized:
            images = [self.resize(image) for image in images]
        if independent:
            return [proposals for image in images for proposals in self._propose([image])]
        return self._propose(images)

    def _propose(self, images: Sequence[np.ndarray]) -> list[Proposals]:
        if not images:
            return []
        batch = pad_to_multiple([normalise(image) for image in images])
        weight = self.network.query_positions
        batch = batch.to(weight.device, weight.dtype, memory_format=torch.channels_last)
        final = self.network(batch, every_layer=False).layers[-1]
        return [
            Proposals(
                mask_logits=final.mask_logits[index].float(),
                query_embeddings=final.query_embeddings[index].float(),
                no_object_logits=final.no_object_logits[index].float(),
                image_size=(image.shape[0], image.shape[1]),
                padded_size=(batch.shape[2], batch.shape[3]),
            )
            for index, image in enumerate(images)
        ]
