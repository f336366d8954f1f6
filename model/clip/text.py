"""Class names -> text embeddings (paper section 3.2): every template with every synonym, averaged, cached on disk.

Legend for shapes: C classes, D embedding size.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from maskmill.model.clip.clip import Clip
from maskmill.model.vocabulary import ClassEntry, Vocabulary

TEXT_BATCH = {"cpu": 32, "cuda": 256}
"""Sentences encoded at a time, by device; on CPUs more would only take memory (100 MB at real size, measured)."""
_TENSOR = "text_features"

logger = logging.getLogger(__name__)


Classes = Vocabulary | Sequence[ClassEntry]


def names_apart(vocabulary: Vocabulary) -> tuple[list[ClassEntry], list[int]]:
    """Return each name and synonym of the classes as an entry of its own, and the class id that each belongs to."""
    apart = [
        (ClassEntry(name=name, prompts=entry.prompts), class_id)
        for class_id, entry in enumerate(vocabulary)
        for name in entry.names
    ]
    return [entry for entry, _ in apart], [class_id for _, class_id in apart]


def text_features(
    clip: Clip, vocabulary: Classes, templates: Sequence[str], cache_dir: str | Path | None = None
) -> Tensor:
    """Return (C, D) float32 L2-normalised embeddings of the classes on CLIP's device.

    Each template x synonym is encoded, normalised, averaged over its class and normalised again. Sentences are made
    and encoded in batches, so 10,000 classes need no more memory than their embeddings. With ``cache_dir`` the result
    is kept there under the hash of everything it depends on: CLIP's text side, names, templates.
    """
    if not templates:
        raise ValueError("text_features needs at least one template")
    if cache_dir is None:
        return _encode_classes(clip, vocabulary, templates)
    path = Path(cache_dir) / f"{_cache_key(clip, vocabulary, templates)}.safetensors"
    cached = _read_cache(path, (len(vocabulary), clip.embed_dim))
    if cached is None:
        cached = _encode_classes(clip, vocabulary, templates)
        _write_cache(path, cached)
    return cached.to(clip.device)


def _encode_classes(clip: Clip, vocabulary: Classes, templates: Sequence[str]) -> Tensor:
    sums = torch.zeros(len(vocabulary), clip.embed_dim, device=clip.device)
    sentences = _sentences(vocabulary, templates)
    size = TEXT_BATCH.get(clip.device.type, TEXT_BATCH["cpu"])
    while batch := list(islice(sentences, size)):
        ids, texts = zip(*batch, strict=True)
        embeddings = F.normalize(clip.encode_text(texts), dim=-1)
        sums.index_add_(0, torch.tensor(ids, device=clip.device), embeddings)
    # Normalising the sum is normalising the mean.
    return F.normalize(sums, dim=-1)


def _sentences(vocabulary: Classes, templates: Sequence[str]) -> Iterator[tuple[int, str]]:
    for class_id, entry in enumerate(vocabulary):
        for sentence in entry.sentences(templates):
            yield class_id, sentence


def _cache_key(clip: Clip, vocabulary: Classes, templates: Sequence[str]) -> str:
    words = [(entry.names, entry.prompts or tuple(templates)) for entry in vocabulary]
    return hashlib.sha256(json.dumps([clip.text_fingerprint(), words]).encode()).hexdigest()


def _read_cache(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """Return the cached embeddings; None if there are none or the file is damaged, which is logged."""
    if not path.is_file():
        return None
    try:
        tensor = load_file(path)[_TENSOR]
    except (SafetensorError, KeyError) as error:
        logger.warning("Text embeddings in %s are damaged and computed again: %s", path, error)
        return None
    if tuple(tensor.shape) != shape:
        logger.warning("Text embeddings in %s have shape %s and are computed again", path, tuple(tensor.shape))
        return None
    return tensor


def _write_cache(path: Path, features: Tensor) -> None:
    """Write atomically: workers of one run may share the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(handle)
    try:
        save_file({_TENSOR: features.cpu().contiguous()}, temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
