"""From pixels to the network's input: normalising and padding as the release does.

Images are uint8 (H, W, 3) RGB arrays outside and float32 (3, H, W) tensors inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.model.images.resize import require_image
from maskmill.model.networks.transfers import Transfers, constant

PIXEL_MEAN = (123.675, 116.280, 103.530)
PIXEL_STD = (58.395, 57.120, 57.375)
"""Mean and deviation of ImageNet's RGB values, 0..255 (the segmentation network's normalisation)."""

SIZE_DIVISOR = 32
"""Padded sizes are multiples of the backbone's coarsest stride."""


def normalise(image: np.ndarray, mean: Sequence[float] = PIXEL_MEAN, std: Sequence[float] = PIXEL_STD) -> Tensor:
    """Return (image - mean) / std of a uint8 (H, W, 3) RGB image as float32 (3, H, W)."""
    require_image(image)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32, order="C"))
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def pad_to_multiple(images: Sequence[Tensor], multiple: int = SIZE_DIVISOR) -> Tensor:
    """Pad (3, H_i, W_i) images with 0, right and bottom, to one size; (B, 3, H, W).

    H and W are the largest of the images' sizes rounded up to ``multiple``.
    """
    if not images:
        raise ValueError("no images to pad")
    height, width = padded_size([(image.shape[-2], image.shape[-1]) for image in images], multiple)
    return torch.stack([F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in images])


def padded_size(sizes: Sequence[tuple[int, int]], multiple: int = SIZE_DIVISOR) -> tuple[int, int]:
    """Return the largest height and width of ``sizes``, rounded up to ``multiple``."""
    height, width = (-(-max(own) // multiple) * multiple for own in zip(*sizes, strict=True))
    return height, width


def normalised_batch(
    images: Sequence[np.ndarray],
    padded_size: tuple[int, int],
    transfers: Transfers,
    mean: Sequence[float] = PIXEL_MEAN,
    std: Sequence[float] = PIXEL_STD,
) -> Tensor:
    """Return (B, 3, H, W) float32 on the device: as ``normalise`` and padding with 0 of each image, for GPUs.

    images: uint8 (H_i, W_i, 3). The pixels travel as bytes, a quarter of float32, and become numbers on the device.
    """
    host = transfers.host_buffer((len(images), *padded_size, 3), torch.uint8)
    pixels, full = host.numpy(), True
    for own, image in zip(pixels, images, strict=True):
        require_image(image)
        height, width = image.shape[:2]
        own[:height, :width] = image
        full = full and (height, width) == padded_size
    batch = transfers.upload(host).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    device = batch.device
    batch.sub_(constant(tuple(mean), device)[:, None, None]).div_(constant(tuple(std), device)[:, None, None])
    if full:
        return batch
    sizes = transfers.upload_array(np.array([image.shape[:2] for image in images], np.int64))
    rows, columns = (torch.arange(length, device=device) for length in padded_size)
    inside = (rows < sizes[:, :1])[:, :, None] & (columns < sizes[:, 1:])[:, None]
    return torch.where(inside[:, None], batch, 0)
