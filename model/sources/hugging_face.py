"""Segments from the mask transformers of Hugging Face's ``transformers``: EoMT, OneFormer, Mask2Former, MaskFormer.

The networks are the library's. Pixels are prepared and outputs are read here, because the library's own processors keep
one label a pixel and drop the logits of all other queries.

Legend for shapes: B images, Q queries, K classes of the source's own vocabulary, h x w mask cells.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskmill.model.errors import CheckpointError
from maskmill.model.images.resize import AS_IT_IS, InputSize
from maskmill.model.networks.micro_batch import MicroBatches
from maskmill.model.proposals import Proposals
from maskmill.model.sources.input_rules import InputRules, input_rules
from maskmill.model.sources.source import SourceDescription

PIXELS_AT_ONCE = {"cpu": 1, "cuda": 16 * 640**2}
"""Pixels of the images that run together, by device; on CPUs each image runs alone (see
``maskmill.model.zegformer.proposer``)."""

TASK = "the task is panoptic"
"""What OneFormer is asked for: one segment for each thing and each kind of stuff."""

NO_NAME = re.compile(r"LABEL_\d+")
"""Names that the library makes up where a checkpoint has none."""

_CLASSES = {
    "eomt": "EomtForUniversalSegmentation",
    "eomt_dinov3": "EomtDinov3ForUniversalSegmentation",
    "mask2former": "Mask2FormerForUniversalSegmentation",
    "maskformer": "MaskFormerForInstanceSegmentation",
    "oneformer": "OneFormerForUniversalSegmentation",
}
MODEL_TYPES = tuple(_CLASSES)
"""Values of ``model_type`` in config.json that this module loads."""


class HuggingFaceSource:
    """Images -> proposals with class probabilities over the checkpoint's own names.

    names: the checkpoint's class names, None where it has only placeholders. embedding_dim: None, since its queries
    cannot be compared with CLIP's texts. rules: how pixels are prepared. input_size: what images are brought to before,
    so that CLIP looks at the same picture.
    """

    embedding_dim: int | None = None

    def __init__(self, network: Any, rules: InputRules, input_size: InputSize = AS_IT_IS) -> None:
        self.input_size = input_size
        self.network = network.eval().requires_grad_(False)
        self.rules = rules
        self.names = class_names(network.config.id2label)
        weight = next(network.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.micro_batches = MicroBatches(PIXELS_AT_ONCE.get(self.device.type, PIXELS_AT_ONCE["cpu"]))
        self._task = task_tokens().to(self.device) if network.config.model_type == "oneformer" else None

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray], *, independent: bool = True) -> list[Proposals]:
        """Propose segments of uint8 (H, W, 3) RGB images, at ``input_size``.

        Each image is prepared for itself, so its result never depends on the others but for the last digits on a GPU,
        where images of one input size run together. ``independent`` is accepted because other sources need it.
        """
        images = [self.input_size.resize(image) for image in images]
        inputs = [self.rules.prepare(image) for image in images]
        by_size: dict[torch.Size, list[int]] = {}
        for position, pixels in enumerate(inputs):
            by_size.setdefault(pixels.shape, []).append(position)
        results: dict[int, Proposals] = {}
        for shape, positions in by_size.items():

            def run(start: int, stop: int, positions: list[int] = positions) -> list[Proposals]:
                some = positions[start:stop]
                return self._propose([inputs[at] for at in some], [images[at].shape[:2] for at in some])

            parts = self.micro_batches(run, len(positions), math.prod(shape[1:]))
            results.update(zip(positions, chain.from_iterable(parts), strict=True))
        return [results[at] for at in range(len(images))]

    def _propose(self, inputs: Sequence[Tensor], sizes: Sequence[tuple[int, ...]]) -> list[Proposals]:
        masks, classes = self.logits(torch.stack(list(inputs)))
        probabilities = classes.softmax(dim=-1)
        return [
            Proposals(
                mask_logits=masks[index],
                query_embeddings=None,
                no_object_logits=None,
                objectness=1 - probabilities[index, :, -1],
                class_probabilities=None if self.names is None else probabilities[index, :, :-1],
                image_size=(height, width),
                padded_size=self.rules.covered_size(height, width),
            )
            for index, (height, width) in enumerate(sizes)
        ]

    def logits(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, Q, h, w) mask logits and (B, Q, K + 1) class logits, the last one "no object"; float32."""
        pixels = pixels.to(self.device, self.dtype)
        extra = {} if self._task is None else {"task_inputs": self._task.expand(len(pixels), -1)}
        output = self.network(pixel_values=pixels, **extra)
        return output.masks_queries_logits.float(), output.class_queries_logits.float()


def describe(folder: str | Path) -> SourceDescription:
    """Return what can be told without loading weights. Raises CheckpointError as ``load`` does."""
    return SourceDescription(has_queries=False, names=class_names(read_config(Path(folder)).get("id2label")))


def load(
    folder: str | Path,
    *,
    input_size: InputSize = AS_IT_IS,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> HuggingFaceSource:
    """Load a checkpoint's folder: config.json, model.safetensors and, where it is there, preprocessor_config.json.

    Nothing is fetched, and no code that lies in the folder runs. Raises CheckpointError (a ValueError) for a folder
    that is no such checkpoint, that holds its weights as pickles only, or whose weights do not fit, and ImportError
    that names the extra where ``transformers`` is not installed.
    """
    folder = Path(folder)
    config = read_config(folder)
    model_type = config.get("model_type")
    if model_type not in _CLASSES:
        raise CheckpointError(f"{folder}: model_type is {model_type!r}; supported: {', '.join(MODEL_TYPES)}")
    processor = _read_json(folder / "preprocessor_config.json", missing={})
    if processor.get("do_split_image"):
        raise CheckpointError(f"{folder} looks at windows of a picture (semantic EoMT); choose a panoptic checkpoint")
    network = load_network(folder, _CLASSES[model_type])
    if hasattr(network, "attn_mask_probs"):
        # Between 0 and 1 they make the output random; released weights were trained down to 0.
        network.attn_mask_probs.fill_(0)
    return HuggingFaceSource(network.to(device=device, dtype=dtype), input_rules(config, processor), input_size)


def load_network(folder: Path, class_name: str) -> Any:
    """Load one of the library's models by the name of its class, from safetensors in a local folder only."""
    model_class = getattr(require_transformers(), class_name, None)
    if model_class is None:
        raise CheckpointError(f"{folder} needs {class_name}, which this version of transformers does not have")
    require_safetensors(folder)
    try:
        network, info = model_class.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder} cannot be loaded as {class_name}: {error}") from error
    wrong = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "mismatched_keys") if info.get(kind)}
    if wrong:
        raise CheckpointError(f"{folder}: weights do not fit {class_name}: {wrong}")
    return network


def require_transformers() -> Any:
    """Return the ``transformers`` module; ImportError names the extra that brings it."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError("this proposer needs transformers: pip install 'maskmill[photo]'") from error
    return transformers


def require_safetensors(folder: Path) -> None:
    """Raise CheckpointError unless the folder holds weights as safetensors."""
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pth", "*.pt") for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} holds its weights only as pickles ({', '.join(pickles)}), which can run code when they are "
            "loaded. Choose a commit of the repository that has model.safetensors (hf:REPOSITORY@COMMIT)"
        )
    raise CheckpointError(f"{folder} holds no weights: there is no *.safetensors in it")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the folder's config.json; CheckpointError where there is none or it is damaged."""
    return _read_json(folder / "config.json", missing=None)


def _read_json(path: Path, missing: dict[str, Any] | None) -> dict[str, Any]:
    if missing is not None and not path.is_file():
        return missing
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{path.parent} is no checkpoint of transformers: it has no {path.name}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged: it must hold an object")
    return values


def class_names(id2label: Mapping[Any, str] | None) -> tuple[str, ...] | None:
    """Return the names by class id; None where a checkpoint has only the library's placeholders (LABEL_0, ...)."""
    if not id2label:
        return None
    by_id = {int(key): str(name) for key, name in id2label.items()}
    names = tuple(by_id[index] for index in sorted(by_id))
    if sorted(by_id) != list(range(len(by_id))) or any(NO_NAME.fullmatch(name) for name in names):
        return None
    return names


def task_tokens() -> Tensor:
    """Return OneFormer's (1, 77) int64 tokens of ``TASK``; its tokenizer's merges are those of CLIP."""
    from open_clip import SimpleTokenizer

    return SimpleTokenizer(context_length=77)([TASK])
