"""The open list of classes: names with synonyms, which of them were annotated in training, colours, distractors."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml


def _normalised(name: str) -> str:
    """Return ``name`` as CLIP's tokenizer sees it: lower case, single spaces."""
    return " ".join(name.lower().split())


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassEntry:
    """One class of a vocabulary.

    name: what results call the class; may hold synonyms separated by commas, as in "sofa, couch".
    synonyms: further names, each as good as those in ``name``.
    prompts: sentences that replace the template sets for this class; "{}" stands for each name, may be absent.
    seen: whether the class was annotated when the segmenter was trained; None if nobody said.
    colour: (red, green, blue) in 0..255 for pictures; None leaves the choice to whoever draws.
    distractor: the class competes for pixels, but those it wins come out unlabelled.
    group: free label under which an evaluation may report classes together.
    thing: whether the class is countable, so that each of its instances is a segment of its own in panoptic exports, or
        stuff (False); None if nobody said.
    """

    name: str
    synonyms: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    seen: bool | None = None
    colour: tuple[int, int, int] | None = None
    distractor: bool = False
    group: str | None = None
    thing: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not all(isinstance(synonym, str) for synonym in self.synonyms):
            raise ValueError(f"Class names must be text, got {self.name!r} with synonyms {self.synonyms!r}")
        if not all(_is_unicode(text) for text in (self.name, *self.synonyms)):
            raise ValueError(f"Class {self.name!a} holds half a surrogate pair, which no file can hold")
        names = self.names
        if not all(names):
            raise ValueError(f"Class {self.name!r} has an empty name or synonym")
        if len({_normalised(name) for name in names}) < len(names):
            raise ValueError(f"Class {self.name!r} holds the same name twice")
        if not all(isinstance(prompt, str) and prompt.strip() for prompt in self.prompts):
            raise ValueError(f"Class {self.name!r} has an empty prompt")
        for key in ("seen", "thing", "distractor"):
            value = getattr(self, key)
            if not isinstance(value, bool) and not (key != "distractor" and value is None):
                raise ValueError(f"Class {self.name!r}: {key} must be true or false, got {value!r}")
        if self.colour is not None and not _is_colour(self.colour):
            raise ValueError(f"Class {self.name!r}: colour must be three integers in 0..255, got {self.colour!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of the class, first those in ``name``."""
        return (*(part.strip() for part in self.name.split(",")), *(synonym.strip() for synonym in self.synonyms))

    def sentences(self, templates: Sequence[str]) -> list[str]:
        """Return every template (or own prompt) with every name put in; a prompt without "{}" is taken once."""
        filled = [
            prompt.replace("{}", name)
            for prompt in (self.prompts or templates)
            for name in (self.names if "{}" in prompt else self.names[:1])
        ]
        return filled


class Vocabulary:
    """An ordered list of classes; a class's position is its id. Immutable, comparable and picklable.

    names: class names ("sofa, couch" gives synonyms) or whole entries.
    seen: which classes were annotated in training: an iterable of class names, or one bool per class. None leaves each
        entry's own flag. A class nobody has flagged counts as unseen in ``seen_flags``: an open vocabulary is, by
        definition, one the segmenter was not trained on; a preset that knows its training classes fills them in with
        ``with_training_classes``.

    Raises ValueError for no class at all, empty or duplicate names, and seen names that are not in the list.
    """

    def __init__(
        self, names: Iterable[str | ClassEntry], *, seen: Iterable[str] | Sequence[bool] | None = None
    ) -> None:
        if isinstance(names, str):
            raise ValueError("Vocabulary takes a list of names; wrap a single name in a list, or use from_text")
        entries = tuple(name if isinstance(name, ClassEntry) else ClassEntry(name=name) for name in names)
        if not entries:
            raise ValueError("A vocabulary needs at least one class")
        _refuse_duplicates(entries)
        if seen is not None:
            flags = _seen_flags(entries, seen)
            entries = tuple(replace(entry, seen=flag) for entry, flag in zip(entries, flags, strict=True))
        self._entries = entries

    @classmethod
    def from_text(cls, text: str) -> Vocabulary:
        """Read one class per line, commas between synonyms; blank lines and lines starting with # are left out."""
        lines = (line.strip() for line in text.splitlines())
        return cls([line for line in lines if line and not line.startswith("#")])

    @classmethod
    def from_data(cls, data: Any) -> Vocabulary:
        """Build from parsed JSON or YAML: a list of names and class mappings, or a mapping with it under ``classes``.

        A class mapping has the keys of ``ClassEntry``; an unknown key is a ValueError that lists them.
        """
        if isinstance(data, Mapping):
            if "classes" not in data:
                raise ValueError(f"Expected a list of classes or the key 'classes', got keys {sorted(map(str, data))}")
            data = data["classes"]
        if not isinstance(data, list):
            raise ValueError(f"Expected a list of classes, got {type(data).__name__}")
        return cls([_entry(item) for item in data])

    @classmethod
    def from_file(cls, path: str | Path) -> Vocabulary:
        """Read a local file: JSON or YAML by its ending, otherwise one class per line."""
        path = Path(path)
        text = path.read_text(encoding="utf-8-sig")
        suffix = path.suffix.lower()
        if suffix not in (".json", ".yaml", ".yml"):
            return cls.from_text(text)
        try:
            data = json.loads(text) if suffix == ".json" else yaml.safe_load(text)
        except (json.JSONDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{path.name} is not valid {suffix[1:].upper()}: {error}") from error
        return cls.from_data(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Vocabulary:
        """Inverse of ``to_dict``."""
        return cls.from_data(data)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: {"classes": [{"name": ..., ...}, ...]}, keys at their default left out."""
        defaults = {field.name: field.default for field in fields(ClassEntry)}
        return {
            "classes": [
                {
                    key: list(value) if isinstance(value, tuple) else value
                    for key, value in asdict(entry).items()
                    if key == "name" or value != defaults[key]
                }
                for entry in self._entries
            ]
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in id order, as given."""
        return tuple(entry.name for entry in self._entries)

    @property
    def entries(self) -> tuple[ClassEntry, ...]:
        """The classes in id order."""
        return self._entries

    @property
    def seen_flags(self) -> tuple[bool, ...]:
        """For each class whether it was annotated in training; False where nobody said."""
        return tuple(bool(entry.seen) for entry in self._entries)

    @property
    def distractor_flags(self) -> tuple[bool, ...]:
        """For each class whether its pixels come out unlabelled."""
        return tuple(entry.distractor for entry in self._entries)

    def with_training_classes(self, names: Iterable[str]) -> Vocabulary:
        """Flag every class nobody flagged: seen where it shares a name or synonym with one of ``names``."""
        trained = {_normalised(part) for name in names for part in name.split(",")}
        return Vocabulary(
            replace(entry, seen=any(_normalised(name) in trained for name in entry.names))
            if entry.seen is None
            else entry
            for entry in self._entries
        )

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[ClassEntry]:
        return iter(self._entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._entries == other._entries

    def __hash__(self) -> int:
        return hash(self._entries)

    def __repr__(self) -> str:
        return f"Vocabulary({list(self.names)!r})"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_colour(value: Sequence[object]) -> bool:
    return len(value) == 3 and all(
        isinstance(part, int) and not isinstance(part, bool) and 0 <= part <= 255 for part in value
    )


def _refuse_duplicates(entries: Sequence[ClassEntry]) -> None:
    """Raise ValueError if two classes say the same: equal sets of names and prompts give CLIP no way to tell them."""
    first_with: dict[object, ClassEntry] = {}
    for entry in entries:
        said = (frozenset(_normalised(name) for name in entry.names), entry.prompts)
        for key in (_normalised(entry.name), said):
            if key in first_with:
                raise ValueError(f"Duplicate class: {entry.name!r} and {first_with[key].name!r}")
            first_with[key] = entry


def _seen_flags(entries: Sequence[ClassEntry], seen: Iterable[str] | Sequence[bool]) -> list[bool]:
    if isinstance(seen, str):
        raise ValueError("seen takes a list of class names or one bool per class, not a single text")
    values = list(seen)
    if values and all(isinstance(value, bool) for value in values):
        if len(values) != len(entries):
            raise ValueError(f"seen has {len(values)} flags for {len(entries)} classes")
        return [bool(value) for value in values]
    ids = [_class_id(entries, value) for value in values]
    return [index in ids for index in range(len(entries))]


def _class_id(entries: Sequence[ClassEntry], name: object) -> int:
    """Return the id of the class called ``name`` in full, else of the only one with that synonym."""
    if not isinstance(name, str):
        raise ValueError(f"seen must hold class names or one bool per class, got {name!r}")
    wanted = _normalised(name)
    for index, entry in enumerate(entries):
        if _normalised(entry.name) == wanted:
            return index
    holders = [index for index, entry in enumerate(entries) if wanted in map(_normalised, entry.names)]
    if len(holders) == 1:
        return holders[0]
    if holders:
        raise ValueError(f"Seen name {name!r} is a synonym of several classes: {[entries[i].name for i in holders]}")
    known = [entry.name for entry in entries]
    close = difflib.get_close_matches(name, known, n=5) or known[:10]
    raise ValueError(f"Seen name {name!r} is not a class. Class names like it: {', '.join(close)}")


def _entry(item: object) -> ClassEntry:
    if isinstance(item, str):
        return ClassEntry(name=item)
    if not isinstance(item, Mapping):
        raise ValueError(f"A class is a name or a mapping with the key 'name', got {item!r}")
    valid = [field.name for field in fields(ClassEntry)]
    unknown = [str(key) for key in item if key not in valid]
    if unknown:
        raise ValueError(f"Unknown class key {', '.join(unknown)} in {dict(item)!r}. Choose from: {', '.join(valid)}")
    if "name" not in item:
        raise ValueError(f"Class without a name: {dict(item)!r}")
    values = dict(item)
    for key in ("synonyms", "prompts"):
        if key in values:
            value = values[key]
            if isinstance(value, str):
                value = [value]
            if not isinstance(value, (list, tuple)):
                raise ValueError(f"Class {values['name']!r}: {key} must be a list of texts, got {value!r}")
            values[key] = tuple(value)
    if values.get("colour") is not None:
        if not isinstance(values["colour"], (list, tuple)):
            raise ValueError(f"Class {values['name']!r}: colour must be three integers, got {values['colour']!r}")
        values["colour"] = tuple(values["colour"])
    return ClassEntry(**values)
