"""The yardstick: the model run the way the official release runs it, with the same weights.

Like the release, it computes in float32 with separate batch norms, encodes the sub-image of every query in one batch
(those of empty masks too), runs both roi_aligns, of the masked and of the plain image, for all queries at once, and
resizes the full C x H x W sum before the argmax.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from maskmill.model.clip.clip import Clip
from maskmill.model.images.boxes import mask_boxes
from maskmill.model.images.preprocess import normalise, pad_to_multiple
from maskmill.model.images.resize import resize_short_side
from maskmill.model.naming.classifier import Classifier
from maskmill.model.naming.scoring import clip_probabilities, fuse, query_probabilities
from maskmill.model.zegformer.network import ZegFormer
from maskmill.pipeline.bench.stopwatch import Stopwatch


class AsReleased:
    """Turns images into label maps. network, clip: as loaded.

    classifier: gives its settings (region "cropmask") and its text embeddings.
    """

    def __init__(
        self, network: ZegFormer, clip: Clip, classifier: Classifier, short_side: int, max_long_side: int
    ) -> None:
        if classifier.settings.region != "cropmask":
            raise ValueError(f"the yardstick is for region 'cropmask', not {classifier.settings.region!r}")
        self.network = network.eval().requires_grad_(False)
        self.clip, self.classifier = clip, classifier
        self.sides = (short_side, max_long_side)
        self.stopwatch = Stopwatch()
        self.stopwatch.watch_module(self.network.backbone, "backbone")

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the (H, W) uint16 label map of a uint8 (H, W, 3) image at the image's size."""
        resized = resize_short_side(image, *self.sides)
        with self.stopwatch("decoder"):
            batch = pad_to_multiple([normalise(resized)])
            final = self.network(batch).layers[-1]
        with self.stopwatch("regions"):
            images, masks = self._regions(resized, final.mask_logits[0], (batch.shape[2], batch.shape[3]))
        with self.stopwatch("clip"):
            embedded = self.clip.encode_image(images)
        with self.stopwatch("fusion"):
            scores = self._scores(final.query_embeddings[0], final.no_object_logits[0], embedded)
        with self.stopwatch("map"):
            maps = torch.einsum("qc,qhw->chw", scores, masks.sigmoid())[:, : resized.shape[0], : resized.shape[1]]
            maps = F.interpolate(maps[None], image.shape[:2], mode="bilinear", align_corners=False)[0]
            maps = maps - self.classifier.offsets[:, None, None]
            return maps.argmax(dim=0).numpy().astype(np.uint16)

    def _regions(self, image: np.ndarray, mask_logits: Tensor, padded: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the sub-images (Q, 3, S, S) and the mask logits (Q, H, W) at padded size."""
        masks = F.interpolate(mask_logits[None], padded, mode="bilinear", align_corners=False)[0]
        pixels = pad_to_multiple([self.clip.input.normalise(image)])
        boxes = mask_boxes(masks)
        rois = torch.cat((torch.arange(len(boxes))[:, None].to(boxes.dtype), boxes), dim=1)
        side = self.clip.image_size
        plain = pixels.repeat(len(masks), 1, 1, 1)
        # The release crops the plain image too, even where it uses only the masked one, so the cost is measured.
        roi_align(plain, rois, (side, side), aligned=True)
        return roi_align(plain * (masks > 0)[:, None], rois, (side, side), aligned=True), masks

    def _scores(self, query_embeddings: Tensor, no_object_logits: Tensor, embedded: Tensor) -> Tensor:
        classifier = self.classifier
        assert classifier.image_text is not None
        query_scores = query_probabilities(query_embeddings, no_object_logits, classifier.query_text)
        clip_scores = clip_probabilities(embedded, no_object_logits, classifier.image_text, classifier.logit_scale)
        return fuse(query_scores, clip_scores, classifier.seen, classifier.settings.fusion)
