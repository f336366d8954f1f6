"""Expands brace patterns: ``shard-{00000..00099}.tar``, ``{train,val}/*.tar``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from maskmill.pipeline.errors import UsageError

MAX_NAMES = 100_000
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(pattern: str) -> list[str]:
    """Return every name that the pattern stands for, in order: numbers counted up with their zeros, lists as written.

    Raises UsageError for braces that do not match, ranges that run down and patterns of more than 100,000 names.
    """
    names = [pattern]
    # Each round replaces one innermost pair of braces in every name, until no brace is left.
    while True:
        if not any("{" in name or "}" in name for name in names):
            return list(dict.fromkeys(names))
        expanded: list[str] = []
        for name in names:
            expanded.extend(_expand_one(name, pattern))
            if len(expanded) > MAX_NAMES:
                raise UsageError(f"{pattern!r} stands for more than {MAX_NAMES} names")
        names = expanded


def _expand_one(name: str, pattern: str) -> Iterator[str]:
    if "{" not in name and "}" not in name:
        yield name
        return
    match = re.search(r"\{([^{}]*)\}", name)
    if match is None:
        raise UsageError(f"{pattern!r} has a brace without its partner")
    for choice in _choices(match.group(1), pattern):
        yield name[: match.start()] + choice + name[match.end() :]


def _choices(inside: str, pattern: str) -> Iterator[str]:
    if match := _RANGE.fullmatch(inside):
        first, last = match.groups()
        if int(last) < int(first):
            raise UsageError(f"the range {{{inside}}} in {pattern!r} runs backwards")
        if int(last) - int(first) >= MAX_NAMES:
            raise UsageError(f"{pattern!r} stands for more than {MAX_NAMES} names")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        yield from (f"{number:0{width}d}" for number in range(int(first), int(last) + 1))
    elif "," in inside:
        yield from inside.split(",")
    else:
        raise UsageError(f"{{{inside}}} in {pattern!r} is neither a range like {{000..099}} nor a list like {{a,b}}")
