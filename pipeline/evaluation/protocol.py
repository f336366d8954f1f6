"""Evaluation protocols: which classes there are, which of them training may have seen, and what label values mean."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.evaluation.bundled_protocols import bundled_protocol_data, bundled_protocols
from maskmill.pipeline.evaluation.protocol_file import LABEL_VALUES, check_protocol
from maskmill.pipeline.storage.files import StorageOptions, public_uri, without_query
from maskmill.pipeline.storage.text_files import parse_data, read_text, suffix_of

IdKind = Literal["evaluation", "raw"]
Setting = Literal["gzs3", "zs3"]

UNSET_LABEL = 65535
"""Means "ignored" in ground truth and "unlabelled" in predictions, in addition to the protocol's ignore label.

This is the value of maskmill.model.proposals.UNLABELLED, which is not imported because evaluation needs no torch.
"""
_EXAMPLES = 5


class EvaluationError(UsageError):
    """Predictions, ground truth and protocol do not match; the message says what does not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolClass:
    """One class; its position in the protocol is its evaluation id.

    seen: whether training may have used its annotations, None if the protocol does not say. group: a set of classes
    for which figures are reported too. thing: countable (True) or stuff (False), None if unknown. raw_id: the class's
    value in the dataset's original annotations.
    """

    name: str
    seen: bool | None = None
    group: str | None = None
    thing: bool | None = None
    raw_id: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """The classes that are compared; C below is their number.

    setting: "gzs3" compares all classes, "zs3" only the unseen ones: pixels of seen classes are ignored, and
    predictions must have been made from the unseen names alone.
    """

    name: str
    title: str
    ignore_label: int
    classes: tuple[ProtocolClass, ...]
    setting: Setting = "gzs3"

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> list[str]:
        """Class names in id order."""
        return [entry.name for entry in self.classes]

    @property
    def evaluated(self) -> np.ndarray:
        """(C,) bool, the classes that count in this setting."""
        return np.array([self.setting == "gzs3" or entry.seen is False for entry in self.classes])

    @property
    def things(self) -> np.ndarray:
        """(C,) bool; classes of unknown kind count as stuff."""
        return np.array([bool(entry.thing) for entry in self.classes])

    def groups(self) -> dict[str, np.ndarray]:
        """The class ids of every set of classes with separate figures: seen, unseen, then named groups."""
        sets = {
            "seen": [i for i, entry in enumerate(self.classes) if entry.seen is True],
            "unseen": [i for i, entry in enumerate(self.classes) if entry.seen is False],
        }
        for i, entry in enumerate(self.classes):
            if entry.group is not None and entry.group not in ("seen", "unseen"):
                sets.setdefault(entry.group, []).append(i)
        return {name: np.array(ids, dtype=np.int64) for name, ids in sets.items() if ids}

    def digest(self) -> str:
        """Return a short stable hash of everything in the protocol that can change a figure."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_protocol(name: str, *, setting: Setting = "gzs3", storage_options: StorageOptions | None = None) -> Protocol:
    """Return a bundled protocol by its name, or read one from a JSON or YAML file (any fsspec URI).

    Raises UsageError for an unknown name, an unreadable file or wrong content, saying what would be valid.
    """
    if name in bundled_protocols():
        return protocol_from_data(bundled_protocol_data(name), name=name, setting=setting)
    if suffix_of(name) not in (".json", ".yaml", ".yml"):
        raise UsageError(
            f"unknown protocol {name!r}. Choose from: {', '.join(bundled_protocols())}, or give a .json or .yaml file"
        )
    try:
        data = parse_data(read_text(name, storage_options), public_uri(name))
    except UsageError as error:
        raise UsageError(f"protocol: {error}") from error
    stem = posixpath.splitext(posixpath.basename(without_query(name)))[0]
    try:
        return protocol_from_data(data, name=stem, setting=setting)
    except UsageError as error:
        raise UsageError(f"{public_uri(name)}: {error}") from error


def protocol_from_data(data: Any, *, name: str, setting: Setting = "gzs3") -> Protocol:
    """Build a protocol from parsed JSON or YAML: {"classes": [...], "ignore_label": 255, "title": ...}.

    A class is a name or a mapping with the fields of ProtocolClass. Raises UsageError naming what is wrong.
    """
    file = check_protocol(data, name)
    classes = tuple(
        ProtocolClass(name=entry.name, seen=entry.seen, group=entry.group, thing=entry.thing, raw_id=entry.raw_id)
        for entry in file.classes
    )
    _refuse_repeats(name, "name", [normalised_name(entry.name) for entry in classes])
    _refuse_repeats(name, "raw_id", [entry.raw_id for entry in classes if entry.raw_id is not None])
    moved = next((i for i, entry in enumerate(file.classes) if entry.class_id not in (None, i)), None)
    if moved is not None:
        raise UsageError(
            f"protocol {name!r}: classes[{moved}].class_id: a class's id is its place in the list, which is {moved} "
            f"and not {file.classes[moved].class_id}"
        )
    if file.ignore_label < len(classes):
        raise UsageError(f"protocol {name!r}: ignore_label {file.ignore_label} is also the id of a class")
    if setting == "zs3" and not any(entry.seen is False for entry in classes):
        raise UsageError(f'protocol {name!r} has no class with "seen": false, so there is nothing to compare in zs3')
    return Protocol(
        name=name,
        title=name if file.title is None else file.title,
        ignore_label=file.ignore_label,
        classes=classes,
        setting=setting,
    )


def _refuse_repeats(protocol: str, key: str, values: Sequence[Any]) -> None:
    repeated = sorted(str(value) for value, uses in Counter(values).items() if uses > 1)
    if repeated:
        raise UsageError(f"protocol {protocol!r}: {key} used twice: {_some(repeated)}")


def label_table(protocol: Protocol, ids: IdKind, *, reduce_zero_label: bool = False) -> np.ndarray:
    """Return what each pixel value of ground truth means: (65536,) uint16 class ids, C for ignored, C + 1 for invalid.

    ids: "evaluation" expects 0..C-1 and the ignore labels (the protocol's, 65535, and 255 where that is no class); all
    other values are invalid. "raw" expects the dataset's original values; all values that are no class are ignored.
    reduce_zero_label: the files count from one, with zero for ignored. Raises UsageError where the protocol has no raw
    ids.
    """
    count = len(protocol)
    table = np.full(LABEL_VALUES, count + 1, dtype=np.uint16)
    if ids == "raw":
        if reduce_zero_label:
            raise UsageError("reduce-zero-label is for evaluation ids; raw ids are mapped one by one")
        raw_ids = [entry.raw_id for entry in protocol.classes if entry.raw_id is not None]
        if len(raw_ids) < count:
            raise UsageError(f"protocol {protocol.name!r} has no raw_id for its classes: use evaluation ids")
        table[:] = count
        table[raw_ids] = np.arange(count)
    else:
        first = int(reduce_zero_label)
        table[first : first + count] = np.arange(count)
        table[[*range(first), protocol.ignore_label, UNSET_LABEL]] = count
        if first + count <= 255:
            table[255] = count
    skipped = np.append(~protocol.evaluated, [False, False])
    return np.where(skipped[table], np.uint16(count), table)


def prediction_table(protocol: Protocol, ids: IdKind) -> np.ndarray:
    """Return the same table for predicted label maps: C is unlabelled; classes outside the setting are invalid."""
    table = label_table(replace(protocol, setting="gzs3"), ids)
    skipped = np.append(~protocol.evaluated, [False, False])
    return np.where(skipped[table], np.uint16(len(protocol) + 1), table)


def match_classes(protocol: Protocol, run_classes: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Map a run's class ids to evaluation ids by name: (classes of the run,) int64.

    run_classes: entries of classes.json in id order. Distractors map to C, "unlabelled". Names are compared without
    regard to case: first with all their synonyms, then by the first name where it is unique on both sides. Raises
    EvaluationError if the two lists are not the same classes.
    """
    wanted = [i for i, is_evaluated in enumerate(protocol.evaluated) if is_evaluated]
    given = [i for i, entry in enumerate(run_classes) if not entry.get("distractor", False)]
    wanted_names = {i: _all_names(protocol.names[i], ()) for i in wanted}
    given_names = {i: _all_names(run_classes[i]["name"], run_classes[i].get("synonyms", ())) for i in given}
    table = np.full(len(run_classes), len(protocol), dtype=np.int64)
    for key in (frozenset, lambda names: names[0]):
        by_key = _unique({i: key(names) for i, names in wanted_names.items()})
        for value, i in _unique({i: key(names) for i, names in given_names.items()}).items():
            if value in by_key:
                table[i] = by_key[value]
                del wanted_names[by_key[value]], given_names[i]
    if wanted_names or given_names:
        raise EvaluationError(_mismatch(protocol, run_classes, list(wanted_names), list(given_names), len(given)))
    return table


def _unique(keys: Mapping[int, Any]) -> dict[Any, int]:
    """Invert the mapping, without the values that several keys have."""
    uses = Counter(keys.values())
    return {value: i for i, value in keys.items() if uses[value] == 1}


def _all_names(name: str, synonyms: Sequence[str]) -> tuple[str, ...]:
    return tuple(normalised_name(part) for part in (*name.split(","), *synonyms))


def normalised_name(name: str) -> str:
    """Return a class name in the form in which names are compared: lower case, single spaces."""
    return " ".join(name.lower().split())


def _mismatch(
    protocol: Protocol, run_classes: Sequence[Mapping[str, Any]], missing: list[int], unknown: list[int], given: int
) -> str:
    expected = int(protocol.evaluated.sum())
    parts = [f"the labels' classes are not those of protocol {protocol.name!r} ({protocol.setting})"]
    if given != expected:
        parts.append(f"{given} classes instead of {expected}")
    if missing:
        parts.append(f"not among the labels' classes: {_some([protocol.names[i] for i in missing])}")
    if unknown:
        parts.append(f"not in the protocol: {_some([run_classes[i]['name'] for i in unknown])}")
    if protocol.setting == "gzs3" and not unknown and all(protocol.classes[i].seen for i in missing):
        parts.append("labels made from the unseen names alone are evaluated with --setting zs3")
    return "; ".join(parts)


def _some(values: Sequence[str]) -> str:
    shown = ", ".join(repr(value) for value in values[:_EXAMPLES])
    return shown if len(values) <= _EXAMPLES else f"{shown} and {len(values) - _EXAMPLES} more"
