"""Turns proposals into bytes for the way between two actor pools, with masks and probabilities in half precision."""

from __future__ import annotations

import json

import safetensors.torch
import torch

from maskmill.model.proposals import Proposals

_SIZES = "sizes"


def pack_proposals(proposals: Proposals) -> bytes:
    """Return bytes; mask logits and class probabilities are rounded to float16 (relative error < 0.05 %)."""
    tensors = {"mask_logits": proposals.mask_logits.to(torch.float16)}
    if proposals.class_probabilities is not None:
        tensors["class_probabilities"] = proposals.class_probabilities.to(torch.float16)
    for name in ("query_embeddings", "no_object_logits", "objectness"):
        value = getattr(proposals, name)
        if value is not None:
            tensors[name] = value
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sizes = json.dumps([proposals.image_size, proposals.padded_size])
    return safetensors.torch.save(tensors, metadata={_SIZES: sizes})


def unpack_proposals(data: bytes) -> Proposals:
    """Return the proposals of :func:`pack_proposals`; all tensors are float32 on the CPU."""
    tensors = {name: tensor.float() for name, tensor in safetensors.torch.load(data).items()}
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    image_size, padded_size = json.loads(header["__metadata__"][_SIZES])
    return Proposals(
        mask_logits=tensors["mask_logits"],
        query_embeddings=tensors.get("query_embeddings"),
        no_object_logits=tensors.get("no_object_logits"),
        objectness=tensors.get("objectness"),
        class_probabilities=tensors.get("class_probabilities"),
        image_size=tuple(image_size),
        padded_size=tuple(padded_size),
    )
