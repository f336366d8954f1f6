"""What a source of proposals is, and the sources there are, each loaded only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from maskmill.model.images.resize import InputSize
from maskmill.model.proposals import Proposals


def _zegformer() -> Any:
    from maskmill.model.sources import zegformer

    return zegformer


def _hugging_face() -> Any:
    from maskmill.model.sources import hugging_face

    return hugging_face


def _sam() -> Any:
    from maskmill.model.sources import sam

    return sam


def _felzenszwalb() -> Any:
    from maskmill.model.sources import felzenszwalb

    return felzenszwalb


KINDS: dict[str, Callable[[], Any]] = {
    "zegformer": _zegformer,
    "hf": _hugging_face,
    "sam": _sam,
    "felzenszwalb": _felzenszwalb,
}
"""Kind of source -> its module, imported when it is asked for, with ``load(weights, *, input_size, device, dtype)`` and
``describe(weights)``."""
BY_NAME = ("hf", "sam")
"""Kinds whose weights have a name: a folder, or a repository of the hub."""


class ProposalSource(Protocol):
    """Images in, class-agnostic segments out.

    input_size: what images are brought to; the proposals' ``image_size`` is the size that comes of it.
    embedding_dim: size of its query embeddings, None where it has none. names: of its class probabilities, or None.
    """

    input_size: InputSize
    embedding_dim: int | None
    names: tuple[str, ...] | None

    def __call__(self, images: Sequence[np.ndarray], *, independent: bool = False) -> list[Proposals]:
        """Propose segments of uint8 (H, W, 3) RGB images.

        independent: on a CPU no image's result depends on the others, to the last bit.
        """
        ...


@dataclass(frozen=True, slots=True)
class SourceDescription:
    """What a source gives, told without loading its weights.

    has_queries: whether it gives query embeddings that can be compared with texts. names: of its own classes, or None.
    """

    has_queries: bool
    names: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class SourceName:
    """A source as the user writes it: ``zegformer``, ``felzenszwalb``, ``hf:NAME`` or ``sam:NAME``.

    name: a local folder, or a repository of the hub with its commit after "@"; empty for the first two.
    """

    kind: str
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> SourceName:
        """Read what the user wrote; ValueError names the kinds."""
        kind, _, name = text.partition(":")
        if kind not in KINDS or (kind in BY_NAME) != bool(name):
            kinds = ", ".join(kind + (":FOLDER_OR_REPOSITORY[@COMMIT]" if kind in BY_NAME else "") for kind in KINDS)
            raise ValueError(f"Unknown proposer {text!r}. Choose from: {kinds}")
        return cls(kind, name)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


def describe_source(kind: str, weights: str | Path) -> SourceDescription:
    """Return what the source of this kind with these weights gives."""
    return KINDS[kind]().describe(weights)


def load_source(
    kind: str, weights: str | Path, *, input_size: InputSize, device: torch.device, dtype: torch.dtype, compiled: bool
) -> ProposalSource:
    """Load a source. weights: a local file or folder. Raises what the kind's ``load`` raises.

    compiled: whether a ZegFormer's network is compiled; networks of other libraries stay as they are.
    """
    own: dict[str, Any] = {"compiled": compiled} if kind == "zegformer" else {}
    return KINDS[kind]().load(weights, input_size=input_size, device=device, dtype=dtype, **own)
