"""CLIP's image tower made ready for inference: sub-images in batches, or all segments of an image in a single pass.

Legend for shapes: N images, Q masks, C channels, D embedding size, S side of CLIP's input, h x w mask cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.model.clip.clip import Clip
from maskmill.model.clip.towers import tower_of
from maskmill.model.networks.compiling import compile_network
from maskmill.model.networks.device_policy import DevicePolicy, policy_for
from maskmill.model.networks.micro_batch import MicroBatches

START_SHARE = 2 / 3
"""Single-pass classification starts after this share of the blocks: 8 of 12, the best in MAFT (arXiv 2310.00240)."""


class ImageEncoder:
    """Images or their segments -> CLIP embeddings, not of unit length. ``clip`` itself is left as it is.

    compiled: for batches of sub-images, see ``compile_network``. policy: how many sub-images run together, and whether
        all batches have one size; None: that of CLIP's device. tower: the network (``maskmill.model.clip.towers``).
    """

    def __init__(self, clip: Clip, *, compiled: bool = False, policy: DevicePolicy | None = None) -> None:
        self.device, self.dtype = clip.device, clip.image_dtype
        self.image_size, self.embed_dim, self.input = clip.image_size, clip.embed_dim, clip.input
        self.policy = policy or policy_for(clip.device)
        self.micro_batches = MicroBatches(self.policy.sub_image_pixels)
        self.tower = tower_of(clip.model.visual)
        self._embed: Callable[[Tensor], Tensor] = self.tower.embed
        if compiled:
            example = torch.zeros(self._same_size, 3, self.image_size, self.image_size)
            self._embed = compile_network(self._embed, self._ready(example))

    @property
    def _same_size(self) -> int:
        """Sub-images of a batch where all batches have one size."""
        return max(1, min(self.policy.same_size, self.micro_batches.pixels // self.image_size**2))

    @cached_property
    def blank(self) -> Tensor:
        """The (1, D) float32 embedding of an all-zero sub-image, what every empty mask shows; made at first use."""
        # Encode it in a batch of the usual size: the last bits of a result depend on the size.
        return self.encode(torch.zeros(self._same_size, 3, self.image_size, self.image_size))[:1]

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Embed images (N, 3, S, S) normalised with CLIP's statistics; (N, D) float32."""
        if not len(images):
            return torch.empty(0, self.embed_dim, device=self.device)
        parts = self.micro_batches(
            lambda start, stop: self._embed(self._ready(images[start:stop])), len(images), self.image_size**2
        )
        return torch.cat(parts).float()

    @torch.inference_mode()
    def encode_apart(self, parts: Iterable[Tensor]) -> Tensor:
        """Embed the sub-images of several images, taking them one image at a time; as ``encode`` of all parts.

        No embedding depends on the other sub-images, to the last bit: kernels are chosen, and sums ordered, by the size
        of a batch, so all batches have one size, the last one filled up with zeros.
        """
        size = self._same_size
        embedded, total = [self.encode(torch.empty(0))], 0
        waiting = torch.empty(0, 3, self.image_size, self.image_size)
        for part in parts:
            total += len(part)
            waiting = torch.cat((waiting, part))
            while len(waiting) >= size:
                embedded.append(self.encode(waiting[:size]))
                waiting = waiting[size:]
        if len(waiting):
            embedded.append(self.encode(F.pad(waiting, (0, 0) * 3 + (0, size - len(waiting)))))
        return torch.cat(embedded)[:total]

    def require_single_pass(self, region: str) -> None:
        """Raise ValueError unless this tower can do ``region``, "attend" or "pool"."""
        if region in self.tower.regions:
            return
        if region == "attend":
            raise ValueError(
                f"region 'attend' needs a CLIP that attends when it reads out (a ViT with a class token, or a ResNet "
                f"with attention pooling); {self.tower.name} does not: choose 'pool', or 'cropmask'"
            )
        raise ValueError(
            f"region 'pool' needs a convolutional CLIP (ResNet, ConvNeXt), not {self.tower.name}; "
            "choose 'attend' for vision transformers"
        )

    def start_layer(self, chosen: int | None) -> int:
        """Return the block at which the copies of the class token start; ValueError beyond the last one."""
        if chosen is None:
            return int(self.tower.blocks * START_SHARE)
        if not 0 <= chosen < self.tower.blocks:
            raise ValueError(f"attend_layer must be 0 to {self.tower.blocks - 1} for this CLIP, got {chosen}")
        return chosen

    def attend(self, image: Tensor, masks: Tensor, *, short_side: int, start_layer: int | None = None) -> Tensor:
        """Embed what lies under each mask in one pass over the image; (Q, D) float32.

        image: (3, H, W), normalised for CLIP, without padding. masks: (Q, h, w) in 0..1, over the image. short_side:
        to which the image is resized for CLIP, in pixels, rounded to whole cells. start_layer: see ``start_layer``.
        A cell counts as covered where its largest mask value is at least 0.5.
        """
        return self.attend_batch(image[None], masks[None], short_side=short_side, start_layer=start_layer)[0]

    @torch.inference_mode()
    def attend_batch(self, images: Tensor, masks: Tensor, *, short_side: int, start_layer: int | None = None) -> Tensor:
        """Do as ``attend`` for images (B, 3, H, W) of one size with masks (B, Q, h, w) each; (B, Q, D) float32."""
        self.require_single_pass("attend")
        resized, masks = self._on_grid(images, masks, short_side)
        return self.tower.attend(self._ready(resized), masks, self.start_layer(start_layer)).float()

    def pool(self, image: Tensor, masks: Tensor, *, short_side: int, binary: bool = False) -> Tensor:
        """Average the tower's features under each mask, then apply CLIP's head; (Q, D) float32. As for ``attend``.

        binary: of a convolutional tower, cells count fully or not at all, from 0.5 on (FC-CLIP); by default as much as
            the mask covers of them. A mask that covers no whole cell is taken as by default.
        """
        return self.pool_batch(image[None], masks[None], short_side=short_side, binary=binary)[0]

    @torch.inference_mode()
    def pool_batch(self, images: Tensor, masks: Tensor, *, short_side: int, binary: bool = False) -> Tensor:
        """Do as ``pool`` for images (B, 3, H, W) of one size with masks (B, Q, h, w) each; (B, Q, D) float32."""
        self.require_single_pass("pool")
        resized, masks = self._on_grid(images, masks, short_side)
        return self.tower.pool(self._ready(resized), masks, binary=binary).float()

    def _on_grid(self, images: Tensor, masks: Tensor, short_side: int) -> tuple[Tensor, Tensor]:
        """Return images of whole cells of the tower, in shape as near as those allow, and masks as fine as cells."""
        scale = short_side / min(images.shape[-2:])
        stride = self.tower.stride
        rows, columns = (
            max(1, round(side * scale / cell)) for side, cell in zip(images.shape[-2:], stride, strict=True)
        )
        size = (rows * stride[0], columns * stride[1])
        if size != tuple(images.shape[-2:]):
            images = F.interpolate(images, size, mode=self.input.interpolation, align_corners=False, antialias=True)
        finest = (max(masks.shape[2], rows), max(masks.shape[3], columns))
        if finest != tuple(masks.shape[2:]):
            masks = F.interpolate(masks, finest, mode="bilinear", align_corners=False)
        return images, masks

    def _ready(self, images: Tensor) -> Tensor:
        return images.to(self.device, self.dtype, memory_format=torch.channels_last)
