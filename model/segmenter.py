"""The whole system in one object: images -> proposals -> named segments (paper figure 2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskmill.model.choices import require_choice
from maskmill.model.clip.loading import load_clip
from maskmill.model.fetching import fetched_spec, pinned_spec
from maskmill.model.images.resize import MAX_LONG_SIDE
from maskmill.model.licences import licence_notices
from maskmill.model.naming.classifier import Classifier
from maskmill.model.naming.settings import NamingSettings
from maskmill.model.proposals import Segmentation
from maskmill.model.sources.source import ProposalSource
from maskmill.model.spec import DTYPES, ModelSpec, load_classifier, load_proposer
from maskmill.model.vocabulary import Vocabulary
from maskmill.model.zegformer.checkpoint import load_zegformer
from maskmill.model.zegformer.proposer import Proposer
from maskmill.model.zegformer.training_classes import checkpoint_seen_classes

log = logging.getLogger(__name__)


class Segmenter:
    """Images -> labels, for one vocabulary: a ``ProposalSource``, then a ``Classifier``."""

    def __init__(self, proposer: ProposalSource, classifier: Classifier) -> None:
        ours, theirs = proposer.embedding_dim, classifier.embed_dim
        if ours is not None and ours != theirs:
            raise ValueError(f"The segmenter was trained for a CLIP of {ours} dimensions, this one has {theirs}")
        self.proposer = proposer
        self.classifier = classifier

    @classmethod
    def from_checkpoint(
        cls,
        weights: str | Path,
        *,
        clip: str | Path,
        vocabulary: Vocabulary,
        naming: NamingSettings | None = None,
        short_side: int | None = 640,
        max_long_side: int = MAX_LONG_SIDE,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        cache_dir: str | Path | None = None,
        **choices: Any,
    ) -> Segmenter:
        """Build from a ZegFormer checkpoint (``maskmill.model.zegformer.checkpoint.load_zegformer``) and CLIP
        (``maskmill.model.clip.loading.load_clip``).

        vocabulary: classes nobody has flagged are seen if the checkpoint records them among its training classes.
        naming: how segments get their names; single settings may be given by name instead, as in ``fusion="clip"``.
        short_side, max_long_side: as for ``Proposer``. dtype: "float32", "bfloat16" or "float16". cache_dir: as for
        ``Classifier``. Raises ValueError for an unknown setting or choice, naming the valid ones.
        """
        require_choice("dtype", dtype, tuple(DTYPES))
        settings = (naming or NamingSettings()).changed(choices)
        network = load_zegformer(weights).to(device, DTYPES[dtype])
        proposer = Proposer(network, short_side=short_side, max_long_side=max_long_side, owns_network=True)
        vocabulary = vocabulary.with_training_classes(checkpoint_seen_classes(weights))
        return cls(
            proposer, Classifier(load_clip(clip, device, DTYPES[dtype]), vocabulary, settings, cache_dir=cache_dir)
        )

    @classmethod
    def from_preset(
        cls, name: str, *, vocabulary: Vocabulary, cache_dir: str | Path | None = None, **settings: Any
    ) -> Segmenter:
        """Build a whole model by name (``maskmill models`` lists them); weights that are not here are fetched.

        settings: further arguments of ``ModelSpec``, such as ``device="cuda"`` or ``fusion="clip"``. Raises
        ValueError for an unknown name or setting, and where weights cannot be had. Licences that forbid commercial use
        are logged as warnings.
        """
        spec = pinned_spec(ModelSpec(preset=name, **settings))
        for notice in licence_notices(spec):
            log.warning(notice)
        spec = fetched_spec(spec)
        return load_segmenter(spec, vocabulary, cache_dir)

    def __call__(
        self,
        images: Sequence[np.ndarray],
        sizes: Sequence[tuple[int, int]] | None = None,
        keep_scores: bool = False,
        *,
        independent: bool = False,
    ) -> list[Segmentation]:
        """Segment images.

        images: uint8 (H, W, 3) RGB. sizes: (height, width) of each output, by default the image's own.
        keep_scores: also return the (C, H, W) class scores. independent: results of an image do not depend on the
            others in the call, on a GPU but for the last digits; by default a call is one batch padded to a common
            size, as in the release.
        """
        if sizes is None:
            sizes = [(image.shape[0], image.shape[1]) for image in images]
        resized = [self.proposer.input_size.resize(image) for image in images]
        proposals = self.proposer(resized, independent=independent)
        return self.classifier(resized, proposals, sizes, keep_scores=keep_scores, independent=independent)


def load_segmenter(spec: ModelSpec, vocabulary: Vocabulary, cache_dir: str | Path | None = None) -> Segmenter:
    """Load both halves."""
    return Segmenter(load_proposer(spec), load_classifier(spec, vocabulary, cache_dir))
