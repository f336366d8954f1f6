"""(image, proposals) -> named segments: the half of the system that needs no segmentation weights (paper section 3.2).

Legend for shapes: Q queries, C classes, D embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maskmill.model.clip.clip import Clip
from maskmill.model.clip.image_encoder import ImageEncoder
from maskmill.model.clip.prompts import IMAGE_PROMPT_SETS, prompt_set
from maskmill.model.clip.text import names_apart, text_features
from maskmill.model.naming.by_batch import ByBatch
from maskmill.model.naming.by_image import ByImage, LabelTable
from maskmill.model.naming.regions import SINGLE_PASS_REGIONS
from maskmill.model.naming.scoring import Scorer, calibration_offsets
from maskmill.model.naming.settings import NamingSettings
from maskmill.model.naming.source_names import matches
from maskmill.model.networks.device_policy import DevicePolicy, policy_for
from maskmill.model.proposals import UNLABELLED, Proposals, Segmentation
from maskmill.model.vocabulary import Vocabulary


class Classifier:
    """(image, proposals) -> named segments, for one vocabulary. Text embeddings are made when it is built.

    cache_dir: where text embeddings are kept between runs; None keeps none. compiled: as for ``ImageEncoder``.
    policy: image by image or whole batches, and in pieces of which size; None: that of CLIP's device.
    source_names: the names of the proposal source's class probabilities, for fusion "vocabulary"; without them that
        fusion is CLIP's alone.
    query_text, image_text: (C, D) embeddings for either branch, the second None where CLIP sees no images, and of N
        names instead of C classes where synonyms keep an embedding of their own.
    device, embed_dim, logit_scale: CLIP's; of CLIP itself only the image tower is kept, in ``encoder``.
    seen, offsets: (C,) bool, and float32 what is subtracted from each class.
    way: how segments get their names, ``ByBatch`` or ``ByImage``.
    Raises ValueError for more classes than a 16-bit label map can hold, and for a region this CLIP cannot do.
    """

    def __init__(
        self,
        clip: Clip,
        vocabulary: Vocabulary,
        settings: NamingSettings | None = None,
        *,
        source_names: Sequence[str] | None = None,
        cache_dir: str | Path | None = None,
        compiled: bool = False,
        policy: DevicePolicy | None = None,
    ) -> None:
        if len(vocabulary) > int(UNLABELLED):
            raise ValueError(f"{len(vocabulary)} classes; a 16-bit label map holds at most {UNLABELLED}")
        self.device, self.embed_dim, self.logit_scale = clip.device, clip.embed_dim, clip.logit_scale
        self.vocabulary = vocabulary
        self.settings = settings or NamingSettings()
        self.query_text = text_features(clip, vocabulary, prompt_set(self.settings.prompts), cache_dir)
        uses_images = self.settings.fusion != "query"
        sub_images = uses_images and self.settings.region not in SINGLE_PASS_REGIONS
        policy = policy or policy_for(clip.device)
        self.encoder = ImageEncoder(clip, compiled=compiled and sub_images, policy=policy)
        if self.settings.region in SINGLE_PASS_REGIONS:
            self.encoder.require_single_pass(self.settings.region)
            self.encoder.start_layer(self.settings.attend_layer)
        self._class_of_text: Tensor | None = None
        self.image_text = self._image_text(clip, cache_dir) if uses_images else None
        uses_names = self.settings.fusion == "vocabulary" and source_names is not None
        self.seen = torch.tensor(vocabulary.seen_flags, device=clip.device)
        self.offsets = calibration_offsets(self.seen, self.settings.gamma)
        scorer = Scorer(
            fusion=self.settings.fusion,
            logit_scale=self.logit_scale,
            query_text=self.query_text,
            image_text=self.image_text,
            class_of_text=self._class_of_text,
            seen=self.seen,
            seen_ids=self.seen.nonzero()[:, 0],
            matching=matches(vocabulary, source_names or ()).to(clip.device) if uses_names else None,
        )
        ids = np.arange(len(vocabulary), dtype=np.uint16)
        labels = LabelTable(
            offsets=self.offsets,
            labels=np.where(vocabulary.distractor_flags, UNLABELLED, ids),
            is_distractor=torch.tensor(vocabulary.distractor_flags, device=clip.device),
        )
        way = ByBatch if policy.batched else ByImage
        self.way = way(self.settings, scorer, self.encoder, labels, policy)

    def _image_text(self, clip: Clip, cache_dir: str | Path | None) -> Tensor:
        """Return the image branch's (C, D) embeddings, or (N, D) of all names with ``_class_of_text`` set."""
        templates = IMAGE_PROMPT_SETS[self.settings.image_prompts]
        if self.settings.synonyms == "mean":
            return text_features(clip, self.vocabulary, templates, cache_dir)
        entries, class_ids = names_apart(self.vocabulary)
        self._class_of_text = torch.tensor(class_ids, device=clip.device)
        return text_features(clip, entries, templates, cache_dir)

    @torch.inference_mode()
    def __call__(
        self,
        images: Sequence[np.ndarray],
        proposals: Sequence[Proposals],
        sizes: Sequence[tuple[int, int]] | None = None,
        keep_scores: bool = False,
        *,
        independent: bool = False,
    ) -> list[Segmentation]:
        """Name the segments of each image.

        images: at the size the proposals were made from. sizes: (height, width) of each output, by default the
        image's. keep_scores: also return the (C, H, W) class scores. independent: on a CPU no image's result
        depends on the others, to the last bit (``ImageEncoder.encode_apart``).
        Raises ValueError where images, proposals and sizes do not fit together.
        """
        if sizes is None:
            sizes = [(image.shape[0], image.shape[1]) for image in images]
        if not len(images) == len(proposals) == len(sizes):
            raise ValueError(f"{len(images)} images, {len(proposals)} proposals and {len(sizes)} sizes")
        for image, own in zip(images, proposals, strict=True):
            if image.shape[:2] != tuple(own.image_size):
                raise ValueError(f"Proposals for an image of {own.image_size} came with one of {image.shape[:2]}")
        if not images:
            return []
        return self.way(images, proposals, sizes, keep_scores=keep_scores, independent=independent)
