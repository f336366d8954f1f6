"""The classes of a training set: the vocabulary, the ids of unseen classes, and the ignore label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskmill.model.vocabulary import Vocabulary
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.storage.files import public_uri
from maskmill.pipeline.storage.text_files import parse_data, read_text

DEFAULT_IGNORE = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingClasses:
    """The classes of a training set.

    vocabulary: every class; its position is its id in label maps. ignore: the value of unlabelled pixels. Raises
    UsageError where ``ignore`` is also the id of a class.
    """

    vocabulary: Vocabulary
    ignore: int

    def __post_init__(self) -> None:
        if 0 <= self.ignore < len(self.vocabulary):
            raise UsageError(f"ignore_label {self.ignore} is also the id of {self.vocabulary.names[self.ignore]!r}")

    @property
    def seen_ids(self) -> list[int]:
        """The ids of the classes that segmentation training may use, ascending."""
        return [class_id for class_id, entry in enumerate(self.vocabulary) if entry.seen is not False]

    def seen_labels(self, label: np.ndarray) -> np.ndarray:
        """Map a label map (H, W) to positions in ``seen_ids``; every other value becomes -1, "ignore"."""
        table = np.full(max(int(label.max(initial=0)), self.ignore, len(self.vocabulary)) + 1, -1, dtype=np.int64)
        table[self.seen_ids] = np.arange(len(self.seen_ids))
        return table[label]

    def holds_unseen(self, label: np.ndarray) -> bool:
        """Return whether an unseen class occurs in a label map (H, W)."""
        seen = np.zeros(max(int(label.max(initial=0)), self.ignore, len(self.vocabulary)) + 1, dtype=bool)
        seen[self.seen_ids] = True
        seen[self.ignore] = True
        return not seen[label].all()


def read_classes(uri: str, storage_options: Mapping[str, Any] | None = None) -> TrainingClasses:
    """Read a JSON or YAML class file, such as ``classes.json`` of `maskmill shapes`.

    The ignore label is the value of the key "ignore_label", else 255. A class without a "seen" flag may be trained on.
    Raises UsageError for a file that is no class file.
    """
    shown = public_uri(uri)
    text = read_text(uri, storage_options)
    try:
        document = parse_data(text, shown)
        vocabulary = Vocabulary.from_data(document)
    except (ValueError, UsageError) as error:
        raise UsageError(f"{shown} is not a class file: {error}") from error
    ignore = document.get("ignore_label", DEFAULT_IGNORE) if isinstance(document, dict) else DEFAULT_IGNORE
    if type(ignore) is not int:
        raise UsageError(f"{shown}: ignore_label must be an integer, got {ignore!r}")
    return TrainingClasses(vocabulary=vocabulary, ignore=ignore)
