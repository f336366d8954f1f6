"""CLIP as this system uses it: an image encoder and a text encoder with plain inputs and outputs.

Legend for shapes: N images or texts, D embedding size, S input side in pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from open_clip import CLIP, CustomTextCLIP
from torch import Tensor, nn

from maskmill.model.clip.input import ClipInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A CLIP model with its tokenizer.

    model: open_clip's CLIP. ``visual`` may be in a lower precision; the text side stays float32, because its
        embeddings are computed once per run and cached.
    tokenizer: texts -> (N, context length) int64 tokens.
    config: open_clip model configuration: embed_dim, vision_cfg, text_cfg, quick_gelu.
    bpe_path: the tokenizer's own merges (gzip); None for CLIP's.
    input: how pixels are prepared for the image tower.
    """

    model: CLIP | CustomTextCLIP
    tokenizer: Callable[[list[str]], Tensor]
    config: Mapping[str, Any]
    bpe_path: Path | None = None
    input: ClipInput = field(default_factory=ClipInput)

    @property
    def image_size(self) -> int:
        """Side S of the square input in pixels."""
        size = self.model.visual.image_size
        return int(size[0] if isinstance(size, (tuple, list)) else size)

    @property
    def embed_dim(self) -> int:
        """Size D of image and text embeddings."""
        return int(self.config["embed_dim"])

    @property
    def logit_scale(self) -> float:
        """Factor on cosine similarities (the exponential of the learned parameter)."""
        return math.exp(float(self.model.logit_scale.detach()))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.logit_scale.device

    @property
    def image_dtype(self) -> torch.dtype:
        """Precision of the image encoder."""
        return next(self.model.visual.parameters()).dtype

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        """Embed images (N, 3, S, S), normalised as ``input`` says; return (N, D) float32, not unit length."""
        images = images.to(self.device, self.image_dtype, memory_format=torch.channels_last)
        return self.model.encode_image(images).float()

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed N texts; return (N, D) float32, not unit length. Text beyond the context length is cut off."""
        tokens = self.tokenizer(list(texts)).to(self.device)
        causal = isinstance(self.model, CLIP) and self.model.text_pool_type == "argmax"
        if not causal or self.model.attn_mask is None:
            return self.model.encode_text(tokens).float()
        return _encode_causal(self.model, tokens).float()

    def text_fingerprint(self) -> str:
        """Return the SHA-256 (hex) of all that text embeddings depend on: text weights, configuration and merges."""
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True, default=list).encode())
        digest.update(b"" if self.bpe_path is None else self.bpe_path.read_bytes())
        for name, tensor in sorted(self.model.state_dict().items()):
            if not name.startswith("visual."):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _encode_causal(model: CLIP, tokens: Tensor) -> Tensor:
    """Do as ``model.encode_text``, without the positions after the longest text.

    Each position looks only backwards and the end token, the highest id, is what is read out, so the result is the
    same; class names in sentences fill some 12 of CLIP's 77 positions.
    """
    ends = tokens.argmax(dim=-1)
    length = int(ends.max()) + 1
    hidden = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    pooled = hidden[torch.arange(len(tokens), device=tokens.device), ends]
    if model.text_projection is None:
        return pooled
    if isinstance(model.text_projection, nn.Linear):
        return model.text_projection(pooled)
    return pooled @ model.text_projection
