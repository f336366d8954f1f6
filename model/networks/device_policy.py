"""How much of the work runs at once, and in which of two ways, chosen by the device and its free memory.

A CPU takes images one by one, in pieces that stay near its caches; a result is the same to the last bit in any company.
A GPU takes whole batches in few launches, because each launch costs it more than the arithmetic of a small piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

GIBIBYTE = 2**30
SHARE_OF_FREE_MEMORY = 24
"""A class map may take 1/24 of the free bytes: three tensors of its size exist at once (masks, sums, resized sums), and
the networks, the sub-images and a second actor on the same device need the rest."""
LEAST_MAP_FLOATS, MOST_MAP_FLOATS = 2**24, 2**29
"""Between 64 MiB, which every GPU has, and 2 GiB, below which no index of a kernel leaves 31 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DevicePolicy:
    """Sizes of pieces of work. Floats are float32 numbers of one tensor.

    batched: the images of a batch are named together (``maskmill.model.naming.by_batch``), else one by one
        (``maskmill.model.naming.by_image``).
    proposer_pixels: pixels of the images that the segmentation network takes together; at least one image runs.
    sub_image_pixels: pixels of the sub-images that CLIP takes together.
    same_size: most sub-images of a batch where all of CLIP's batches have one size (``ImageEncoder.encode_apart``).
    map_floats: classes (or masks) times pixels that exist at once, unless one row of pixels has more.
    cached_floats, cached_rows: of these, what stays near the caches, and the fewest rows a band is cut to for it.
    band_pixels: most output pixels of a band. mask_pixels: most pixels of masks brought to padded size together.
    column_block: columns of the class map's matrix product are filled up to a multiple of this.
    """

    batched: bool
    proposer_pixels: int
    sub_image_pixels: int
    same_size: int
    map_floats: int
    cached_floats: int
    cached_rows: int
    band_pixels: int
    mask_pixels: int
    column_block: int


CPU_POLICY = DevicePolicy(
    batched=False,
    # Each image runs alone: labels do not depend on which batches a run, a resumed run or a retry makes.
    proposer_pixels=1,
    # A ViT-B/16 takes as long in batches of 4 as of 8 or 16 (measured), in less memory and with fewer fillers.
    sub_image_pixels=4 * 224**2,
    # Measured with the bundled CLIP on one core: 0.69 ms a sub-image, 0.90 in batches of 16, 1.24 in batches of 8.
    same_size=32,
    map_floats=8 * 2**20,
    # Fewer than 16 rows would repeat too much: where the image is resized, a band needs a row or two of the next one.
    cached_floats=2 * 2**20,
    cached_rows=16,
    band_pixels=2**20,
    mask_pixels=2**21,
    # Matrix products on CPUs take up to twice as long for a number of columns that is not a multiple of this.
    column_block=16,
)


def gpu_policy(free_bytes: int) -> DevicePolicy:
    """Return the policy of a GPU with ``free_bytes`` of memory free; its tensors may lie on any device."""
    floats = min(max(free_bytes // 4 // SHARE_OF_FREE_MEMORY, LEAST_MAP_FLOATS), MOST_MAP_FLOATS)
    return DevicePolicy(
        batched=True,
        proposer_pixels=16 * 640**2,
        sub_image_pixels=128 * 224**2,
        same_size=1,
        map_floats=floats,
        cached_floats=floats,
        cached_rows=1,
        band_pixels=floats,
        mask_pixels=floats // 4,  # Beside each mask lies the image under it, in three channels.
        column_block=1,
    )


def policy_for(device: torch.device) -> DevicePolicy:
    """Return the policy of ``device``: of a CUDA device by the memory that is free now, else the CPU's."""
    if device.type != "cuda":
        return CPU_POLICY
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return gpu_policy(free_bytes)
