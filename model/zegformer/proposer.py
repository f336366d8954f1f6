"""Images -> class-agnostic segments: the half of the system that needs no class names (paper section 3.1)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import numpy as np
import torch

from maskmill.model.images.preprocess import SIZE_DIVISOR, normalise, normalised_batch, pad_to_multiple, padded_size
from maskmill.model.images.resize import MAX_LONG_SIDE, InputSize
from maskmill.model.networks.compiling import compile_network
from maskmill.model.networks.device_policy import DevicePolicy, policy_for
from maskmill.model.networks.folding import fold_batch_norms
from maskmill.model.networks.micro_batch import MicroBatches
from maskmill.model.networks.transfers import Transfers
from maskmill.model.proposals import Proposals
from maskmill.model.zegformer.network import ZegFormer, ZegFormerOutput


class Proposer:
    """Images -> class-agnostic segments, with a ZegFormer.

    short_side, max_long_side: images are resized to this short side unless the long one would exceed its limit; a
    short_side of None feeds them as they are. The network runs where its weights are and in their precision.
    compiled: see ``compile_network``. owns_network: ``network`` itself is made ready; by default a copy is.
    policy: how many images run together; None: that of the network's device.
    embedding_dim: size of its query embeddings. names: None, since it has no class names of its own.
    """

    names: tuple[str, ...] | None = None

    def __init__(
        self,
        network: ZegFormer,
        *,
        short_side: int | None,
        max_long_side: int = MAX_LONG_SIDE,
        compiled: bool = False,
        owns_network: bool = False,
        policy: DevicePolicy | None = None,
    ) -> None:
        self.input_size = InputSize(short_side, max_long_side)
        own = fold_batch_norms(network if owns_network else copy.deepcopy(network))
        # Convolutions on CPUs run a fifth faster with channels last.
        self.network = own.requires_grad_(False).to(memory_format=torch.channels_last)
        weight = self.network.query_positions
        self.policy = policy or policy_for(weight.device)
        self.micro_batches = MicroBatches(self.policy.proposer_pixels)
        self.transfers = Transfers(weight.device)
        self.embedding_dim: int | None = self.network.config.embedding_dim
        self._forward: Callable[..., ZegFormerOutput] = self.network
        if compiled:
            side = padded_size([(short_side or SIZE_DIVISOR,) * 2])
            example = weight.new_zeros(1, 3, *side).to(memory_format=torch.channels_last)
            self._forward = compile_network(self.network, example, every_layer=False)

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray], *, independent: bool = False) -> list[Proposals]:
        """Propose segments of each image, which is brought to ``input_size`` first where it does not have that size.

        independent: each image is padded for itself. On a CPU it also runs alone; on a GPU images of one padded size
            run together, which may change the last digits. By default all are padded to one size, as the release
            does, and what a smaller image gets depends on its larger neighbours.
        """
        images = [self.input_size.resize(image) for image in images]
        if not images:
            return []
        if not independent:
            return self._propose(images)
        by_size: dict[tuple[int, int], list[int]] = {}
        for position, image in enumerate(images):
            by_size.setdefault(padded_size([(image.shape[0], image.shape[1])]), []).append(position)
        results: dict[int, Proposals] = {}
        for size, positions in by_size.items():
            own = [images[position] for position in positions]
            parts = self.micro_batches(partial(self._propose_slice, own), len(own), math.prod(size))
            results.update(zip(positions, chain.from_iterable(parts), strict=True))
        return [results[position] for position in range(len(images))]

    def _propose_slice(self, images: Sequence[np.ndarray], start: int, stop: int) -> list[Proposals]:
        return self._propose(images[start:stop])

    def _propose(self, images: Sequence[np.ndarray]) -> list[Proposals]:
        if self.policy.batched:
            size = padded_size([(image.shape[0], image.shape[1]) for image in images])
            batch = normalised_batch(images, size, self.transfers)
        else:
            batch = pad_to_multiple([normalise(image) for image in images])
        weight = self.network.query_positions
        batch = batch.to(weight.device, weight.dtype, memory_format=torch.channels_last)
        final = self._forward(batch, every_layer=False).layers[-1]
        mask_logits, embeddings = final.mask_logits.float(), final.query_embeddings.float()
        no_object_logits = final.no_object_logits.float()
        return [
            Proposals(
                mask_logits=mask_logits[index],
                query_embeddings=embeddings[index],
                no_object_logits=no_object_logits[index],
                image_size=(image.shape[0], image.shape[1]),
                padded_size=(batch.shape[2], batch.shape[3]),
            )
            for index, image in enumerate(images)
        ]
