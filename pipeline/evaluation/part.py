"""The result of one unit of an evaluation, in the form in which it is kept until all units are done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maskmill.pipeline.evaluation.sums import Sums

EXAMPLES = 5
LEFT_OUT = (
    "images_without_prediction",
    "images_ambiguous",
    "images_with_swapped_sides",
    "ground_truth_files_missing",
)
"""The reasons why ground truth is left out, by the key of the count in evaluation.json. Ground truth with swapped sides
is not left out but turned or resized where the settings ask for that."""


@dataclass(slots=True)
class Named:
    """A count of images or files, with the names of a few of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(name)

    def __add__(self, other: Named) -> Named:
        return Named(self.count + other.count, sorted([*self.examples, *other.examples])[:EXAMPLES])

    def __str__(self) -> str:
        shown = ", ".join(map(repr, self.examples[:3]))
        return f"{shown} and {self.count - 3} more" if self.count > 3 else shown


def nothing_left_out() -> dict[str, Named]:
    """Return a count of zero for every reason in LEFT_OUT."""
    return {reason: Named() for reason in LEFT_OUT}


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The result of one unit. matched: index positions of the predictions that were matched, also by ground truth with
    swapped sides.

    shared: positions of predictions left out because other ground truth matches them too. left_out: counts by the
    reasons in LEFT_OUT.
    """

    sums: Sums
    matched: list[int]
    shared: list[int]
    left_out: dict[str, Named]

    def to_dict(self, fingerprint: str) -> dict[str, Any]:
        """Return plain JSON values. fingerprint: a hash of what the part depends on."""
        return {
            "fingerprint": fingerprint,
            "left_out": {reason: [named.count, named.examples] for reason, named in self.left_out.items()},
            "matched": self.matched,
            "shared": self.shared,
            "sums": self.sums.to_dict(),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Part:
        """The inverse of :meth:`to_dict`."""
        return cls(
            sums=Sums.from_dict(plain["sums"]),
            matched=plain["matched"],
            shared=plain["shared"],
            left_out={reason: Named(*plain["left_out"][reason]) for reason in LEFT_OUT},
        )
